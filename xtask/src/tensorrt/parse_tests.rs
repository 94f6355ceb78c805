//! Small headers of our own in the forms that TensorRT's have.

use super::*;

fn read(source: &str) -> Declarations {
    let mut declarations = Declarations::default();
    declarations.read(source).unwrap();
    declarations
}

fn names(class: &Class) -> Vec<&str> {
    class.functions.iter().map(|f| f.name.as_str()).collect()
}

#[test]
fn virtual_functions_are_found_in_order() {
    let declarations = read(
        "namespace apiv {
         class VRoot { public: virtual ~VRoot() noexcept = default; };
         class VHost : public VRoot {
         public:
             TRT_NODISCARD virtual void* data() const noexcept = 0;
             [[nodiscard]] TRT_DEPRECATED_BECAUSE(\"old; use {data}\") virtual std::size_t size() const noexcept
                 = 0;
             int plain() { return 1; }
             virtual void inline_body(int32_t, bool on = true) { if (on) { return; } }
             static constexpr int32_t kSIZE{8};
         protected:
             apiv::VHost* mImpl{};
         }; // class VHost
         }",
    );
    let host = &declarations.classes["VHost"];
    assert_eq!(host.bases, ["VRoot"]);
    assert_eq!(names(host), ["data", "size", "inline_body"]);
    assert_eq!(names(&declarations.classes["VRoot"]), ["~VRoot"]);
    assert_eq!(host.members.len(), 1);
    assert_eq!(host.members[0].base, "VHost");
    let parameters = &host.functions[2].parameters;
    assert_eq!(parameters[0].name, None);
    assert_eq!(parameters[1].name.as_deref(), Some("on"));
    assert_eq!(host.functions[1].result.base, "size_t");
}

#[test]
fn types_keep_pointers_references_and_const() {
    let declarations = read(
        "struct S { virtual ITensor* f(char const** names, ITensor* const* in, nvinfer1::Dims const& dims,
             const Weights w, void const* /*raw*/, IHostMemory*& out) = 0; };",
    );
    let function = &declarations.classes["S"].functions[0];
    let show = |ty: &Type| {
        let pointers = ty
            .pointers
            .iter()
            .map(|is_const| if *is_const { "*c" } else { "*" });
        let is_const = if ty.is_const { "c " } else { "" };
        let reference = if ty.is_reference { "&" } else { "" };
        format!(
            "{is_const}{}{}{reference}",
            ty.base,
            pointers.collect::<String>()
        )
    };
    let shown = function
        .parameters
        .iter()
        .map(|p| show(&p.ty))
        .collect::<Vec<_>>();
    assert_eq!(
        shown,
        [
            "c char**",
            "ITensor*c*",
            "c Dims&",
            "c Weights",
            "c void*",
            "IHostMemory*&"
        ]
    );
    assert_eq!(show(&function.result), "ITensor*");
}

#[test]
fn overriding_functions_and_their_literals_are_kept() {
    let declarations = read(
        "class ILogger : public IVersionedInterface { public:
             InterfaceInfo getInterfaceInfo() const noexcept override { return InterfaceInfo{\"ILogger\", 1, 2}; }
             enum class Severity : int32_t { kERROR = 1, };
             using Text = char const*;
             virtual void log(Severity severity, Text msg) noexcept = 0;
             ILogger() = default;
             ~ILogger() override = default;
             ILogger& operator=(ILogger const&) & = default;
         };",
    );
    let logger = &declarations.classes["ILogger"];
    assert_eq!(names(logger), ["getInterfaceInfo", "log", "~ILogger"]);
    assert_eq!(logger.functions[0].returns, ["ILogger", "1", "2"]);
    assert_eq!(declarations.enums, ["ILogger_Severity"]);
    assert_eq!(declarations.aliases["Text"].base, "char");
}

#[test]
fn forward_declarations_and_templates_are_no_classes() {
    let declarations = read(
        "class A; enum class E : int32_t; template <> struct impl::Max<E> { int f(); };
         using A = v_1_0::A; using Flags = uint32_t; class TRT_DEPRECATED B : public A, private C { };",
    );
    assert_eq!(declarations.classes.keys().collect::<Vec<_>>(), ["B"]);
    assert_eq!(declarations.classes["B"].bases, ["A", "C"]);
    assert_eq!(declarations.enums, ["E"]);
    assert_eq!(declarations.aliases.keys().collect::<Vec<_>>(), ["Flags"]);
}

#[test]
fn the_first_of_two_namespaces_counts() {
    let declarations = read(
        "namespace v_1_0 { class I { virtual void a() = 0; }; }
         namespace v_2_0 { class I : public v_1_0::I { virtual void b() = 0; }; }",
    );
    assert_eq!(names(&declarations.classes["I"]), ["a"]);
}

#[test]
fn what_cannot_be_told_is_refused_by_name() {
    let cases = [
        (
            "class V { \n#if X\n virtual void a() = 0;\n#endif\n };",
            "class V",
        ),
        (
            "class V { virtual void a() = 0; virtual void a(int32_t) = 0; };",
            "a is declared twice",
        ),
        ("class V { virtual void a(int32_t (*f)()) = 0; };", "a"),
    ];
    for (source, expected) in cases {
        let error = Declarations::default().read(source).unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
}

#[test]
fn an_open_end_is_no_reason_to_panic() {
    for source in [
        "class V {",
        "class V { virtual void a(",
        "enum",
        "using X",
        "template",
        "class V { [[",
        "class",
        "class V : {",
    ] {
        let _ = Declarations::default().read(source);
    }
}
