//! What is written for small classes of our own.

use std::path::PathBuf;

use super::super::parse::Declarations;
use super::super::slots;
use super::*;

const SOURCE: &str = "
    class VRoot { virtual ~VRoot() = default; };
    class VThing : public VRoot { virtual IThing* getPImpl() = 0; virtual void setName(char const* name) = 0;
        virtual Dims getShape(IThing& other, int32_t) const = 0; };
    class INoCopy { virtual ~INoCopy() = default; };
    class IThing : public INoCopy { apiv::VThing* mImpl; };
    using Dims = Dims64;
    class IVersionedInterface { virtual int32_t getAPILanguage() const; virtual InterfaceInfo getInterfaceInfo() const = 0;
        virtual ~IVersionedInterface() = default; };";

fn interface_named(name: &str) -> String {
    format!(
        "class {name} : public IVersionedInterface {{
            InterfaceInfo getInterfaceInfo() const override {{ return {{\"{name}\", 1, 0}}; }}
            virtual int64_t work(void const* data, int64_t nbBytes) = 0; }};"
    )
}

fn headers(line: Line, version: Version) -> Headers {
    let mut declarations = Declarations::default();
    declarations.read(SOURCE).unwrap();
    for name in INTERFACES {
        declarations.read(&interface_named(name)).unwrap();
    }
    Headers {
        folder: PathBuf::new(),
        line,
        version,
        declarations,
    }
}

fn both() -> [Headers; 2] {
    [
        headers(Line::Rtx, Version::new(1, 5, 0)),
        headers(Line::Enterprise, Version::new(11, 0, 0)),
    ]
}

#[test]
fn a_class_becomes_a_table_and_calling_functions() {
    let headers = both();
    let tables = slots::tables(&headers).unwrap();
    let context = Context::new([&headers[0].declarations, &headers[1].declarations]);
    let text = slots(&tables, [Version::new(1, 5, 0), Version::new(11, 0, 0)]);
    assert!(
        text.contains("static THING: Class = Class { name: \"IThing\""),
        "{text}"
    );
    assert!(
        text.contains("method(\"setName\", at(3, 1, 5, 0), at(3, 11, 0, 0)),"),
        "{text}"
    );
    let text = objects(&tables, &context).unwrap();
    assert!(
        text.contains(
            "object! { IThing at 1 in THING {\n    \
             1 \"setName\" set_name(name: *const c_char) -> ();\n    \
             2 \"getShape\" get_shape(other: IThing, argument1: i32) -> Dims;\n} }"
        ),
        "{text}"
    );
    assert!(!text.contains("getPImpl"));
}

#[test]
fn an_interface_becomes_a_vtable_with_two_destructors() {
    let headers = both();
    let context = Context::new([&headers[0].declarations, &headers[1].declarations]);
    let text = format(&interfaces(&headers, &context).unwrap()).unwrap();
    let order = [
        "get_api_language",
        "get_interface_info",
        "complete_destructor",
        "deleting_destructor",
        "work",
    ];
    let positions = order.map(|name| text.find(name).unwrap());
    assert!(positions.is_sorted(), "{text}");
    assert!(text.contains("kind: c\"ILogger\".as_ptr()"));
}

#[test]
fn an_interface_that_changes_is_an_error() {
    let mut headers = both();
    let logger = headers[1].declarations.classes.get_mut("ILogger").unwrap();
    logger.functions.pop();
    let context = Context::new([&headers[0].declarations, &headers[1].declarations]);
    let error = interfaces(&headers, &context).unwrap_err().to_string();
    assert!(error.contains("ILogger is not the same"), "{error}");
}

#[test]
fn text_that_is_no_rust_is_not_formatted() {
    assert!(format("fn {").is_err());
}
