//! C++ types of parameters and results as Rust types.
//!
//! Objects of the library are handles (`ITensor&` → `ITensor`, `ITensor*` → `Option<ITensor>`),
//! interfaces that the user implements are pointers to them, plain structs by constant reference
//! are references. What is neither is a pointer to nothing known.
//!
//! ```text
//! char const* -> *const c_char      Dims const& -> &Dims      ITensor* const* -> *const *mut c_void
//! ```

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::names;
use super::parse::{Declarations, Type};

/// Plain structs that bindgen gives, by their names in the headers.
pub(super) const STRUCTS: [&str; 6] = [
    "Dims64",
    "Weights",
    "Permutation",
    "InterfaceInfo",
    "TimingCacheKey",
    "TimingCacheValue",
];

/// Interfaces that the user implements and the library calls.
pub(super) const INTERFACES: [&str; 8] = [
    "ILogger",
    "IStreamWriter",
    "IStreamReaderV2",
    "IProgressMonitor",
    "IErrorRecorder",
    "IGpuAsyncAllocator",
    "IProfiler",
    "IDebugListener",
];

/// Objects without calling functions: what only plugins see.
const LEFT_OUT: [&str; 5] = [
    "IDimensionExpr",
    "IExprBuilder",
    "IPluginV2Layer",
    "IPluginV3Layer",
    "IPluginResourceContext",
];

/// What the names in signatures mean.
pub(super) struct Context {
    enums: BTreeSet<String>,
    aliases: BTreeMap<String, Type>,
    pub(super) objects: BTreeMap<String, Object>,
}

/// A class of the public interface that forwards to a virtual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// The class that it forwards to.
    pub(super) virtual_class: String,
    /// The object that it derives from.
    pub(super) base: Option<String>,
    /// Which word of the object points to the implementation; the vtable is word 0.
    pub(super) member: usize,
}

/// What stands at the end of a type's pointers.
enum Base<'a> {
    Void,
    Character,
    Plain(String),
    Object(&'a str),
    Interface(&'a str),
    Unknown,
}

impl Context {
    pub(super) fn new(declarations: [&Declarations; 2]) -> Self {
        let mut context = Self {
            enums: BTreeSet::new(),
            aliases: BTreeMap::new(),
            objects: BTreeMap::new(),
        };
        for declarations in declarations {
            context.enums.extend(declarations.enums.iter().cloned());
            context.aliases.extend(declarations.aliases.clone());
            for name in declarations.classes.keys() {
                if let Some(object) = object(declarations, name) {
                    context.objects.insert(name.clone(), object);
                }
            }
        }
        context
    }

    /// The public class that forwards to `virtual_class`.
    pub(super) fn object_of(&self, virtual_class: &str) -> Option<(&str, &Object)> {
        let mut objects = self.objects.iter();
        objects
            .find(|(_, object)| object.virtual_class == virtual_class)
            .map(|(name, object)| (name.as_str(), object))
    }

    /// The type of a parameter of a calling function.
    pub(super) fn argument(&self, ty: &Type) -> Result<String> {
        let ty = self.resolve(ty);
        let is_value = ty.pointers.is_empty();
        Ok(match (self.base(&ty.base), ty.pointers.len()) {
            (Base::Object(name), 0) if ty.is_reference => name.to_owned(),
            (Base::Object(name), 1) if !ty.is_reference => format!("Option<{name}>"),
            (Base::Plain(name), 0) if ty.is_reference && ty.is_const => format!("&{name}"),
            (Base::Plain(name), 0) if ty.is_reference => format!("&mut {name}"),
            (Base::Object(_) | Base::Unknown, 0) if is_value && !ty.is_reference => {
                bail!("{} by value", ty.base)
            }
            _ => self.raw(&ty)?,
        })
    }

    /// The type that a calling function gives.
    pub(super) fn result(&self, ty: &Type) -> Result<String> {
        let resolved = self.resolve(ty);
        Ok(match (self.base(&resolved.base), resolved.pointers.len()) {
            (Base::Void, 0) => "()".to_owned(),
            (Base::Object(name), 0) if resolved.is_reference => name.to_owned(),
            (Base::Object(name), 1) if !resolved.is_reference => format!("Option<{name}>"),
            _ => self.raw(&resolved)?,
        })
    }

    /// The type as it crosses the border.
    pub(super) fn raw(&self, ty: &Type) -> Result<String> {
        let ty = self.resolve(ty);
        let inner = match self.base(&ty.base) {
            Base::Character => "c_char".to_owned(),
            Base::Plain(name) => name,
            Base::Interface(name) => name.to_owned(),
            Base::Void | Base::Object(_) | Base::Unknown => "c_void".to_owned(),
        };
        let mut levels = ty.pointers.clone();
        if ty.is_reference {
            levels.push(true);
        }
        if levels.is_empty() && inner == "c_void" {
            bail!("{} by value", ty.base);
        }
        // A pointer is constant if what stands to its left is. Interfaces and objects are never
        // constant here: their functions are called through whatever pointer there is.
        let keeps_const = matches!(
            self.base(&ty.base),
            Base::Void | Base::Character | Base::Plain(_)
        );
        let mut text = inner;
        let mut is_const = ty.is_const && keeps_const;
        for level in levels {
            text = format!("*{} {text}", if is_const { "const" } else { "mut" });
            is_const = level;
        }
        Ok(text)
    }

    fn base(&self, name: &str) -> Base<'_> {
        let plain = |name: &str| Base::Plain(name.to_owned());
        if self.enums.contains(name) || STRUCTS.contains(&name) {
            return plain(&names::type_(name));
        }
        if let Some((name, _)) = self.objects.get_key_value(name) {
            return Base::Object(name);
        }
        if let Some(name) = INTERFACES.into_iter().find(|known| *known == name) {
            return Base::Interface(name);
        }
        match name {
            "void" => Base::Void,
            "char" => Base::Character,
            "bool" => plain("bool"),
            "float" => plain("f32"),
            "double" => plain("f64"),
            "size_t" => plain("usize"),
            "int8_t" => plain("i8"),
            "uint8_t" => plain("u8"),
            "int32_t" | "int" => plain("i32"),
            "uint32_t" => plain("u32"),
            "int64_t" => plain("i64"),
            "uint64_t" => plain("u64"),
            "cudaStream_t" => plain("CudaStream"),
            "cudaEvent_t" => plain("CudaEvent"),
            // The interface that the library takes where an asynchronous one is given.
            "IGpuAllocator" => Base::Interface("IGpuAsyncAllocator"),
            "Severity" => plain("Severity"),
            _ => Base::Unknown,
        }
    }

    fn resolve(&self, ty: &Type) -> Type {
        let mut ty = ty.clone();
        // Aliases of aliases are few; a ring of them cannot be declared.
        while let Some(alias) = self.aliases.get(&ty.base) {
            let mut pointers = alias.pointers.clone();
            if ty.is_const
                && let Some(last) = pointers.last_mut()
            {
                *last = true;
            }
            pointers.extend(&ty.pointers);
            ty = Type {
                base: alias.base.clone(),
                is_const: alias.is_const || (ty.is_const && alias.pointers.is_empty()),
                pointers,
                is_reference: ty.is_reference,
            };
        }
        ty
    }
}

/// How `name` forwards, if it does.
fn object(declarations: &Declarations, name: &str) -> Option<Object> {
    let class = declarations.classes.get(name)?;
    let is_public = name.starts_with('I') && !LEFT_OUT.contains(&name);
    let last = class.members.last()?;
    let is_forwarding = last.base.starts_with('V') && last.pointers.len() == 1;
    if !is_public || !is_forwarding {
        return None;
    }
    let base = class.bases.first().filter(|base| *base != "INoCopy");
    let mut member = class.members.len();
    let mut ancestor = base;
    while let Some(class) = ancestor.and_then(|name| declarations.classes.get(name)) {
        member += class.members.len();
        ancestor = class.bases.first();
    }
    Some(Object {
        virtual_class: last.base.clone(),
        base: base.cloned(),
        member,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        enum class DataType : int32_t { kFLOAT = 0 };
        using Dims = Dims64; using Flags = uint32_t; using ErrorDesc = char const*;
        class INoCopy { virtual ~INoCopy() = default; };
        class ITensor : public INoCopy { apiv::VTensor* mImpl; };
        class ILayer : public INoCopy { apiv::VLayer* mLayer; };
        class ISliceLayer : public ILayer { apiv::VSliceLayer* mImpl; };
        class IPluginV3Layer : public ILayer { apiv::VPluginV3Layer* mImpl; };
        struct F { virtual void f(ITensor& a, ITensor* b, ITensor* const* c, Dims const& d, DataType e,
            char const* f, char const** g, Flags h, ErrorDesc i, ILogger& j, void const* k,
            IHostMemory*& l, const cudaStream_t m, IPluginRegistry* n, float const* o, ITensor const& p) = 0;
            virtual ITensor* pointer() = 0; virtual ISliceLayer& reference() = 0;
            virtual Dims dims() = 0; virtual char const* text() = 0; virtual void nothing() = 0; };";

    fn context() -> (Declarations, Context) {
        let mut declarations = Declarations::default();
        declarations.read(SOURCE).unwrap();
        let context = Context::new([&declarations, &Declarations::default()]);
        (declarations, context)
    }

    #[test]
    fn arguments_are_typed() {
        let (declarations, context) = context();
        let parameters = &declarations.classes["F"].functions[0].parameters;
        let types = parameters.iter().map(|p| context.argument(&p.ty).unwrap());
        assert_eq!(
            types.collect::<Vec<_>>(),
            [
                "ITensor",
                "Option<ITensor>",
                "*const *mut c_void",
                "&Dims",
                "DataType",
                "*const c_char",
                "*mut *const c_char",
                "u32",
                "*const c_char",
                "*mut ILogger",
                "*const c_void",
                "*mut *mut c_void",
                "CudaStream",
                "*mut c_void",
                "*const f32",
                "ITensor",
            ]
        );
    }

    #[test]
    fn results_are_typed() {
        let (declarations, context) = context();
        let results = declarations.classes["F"].functions[1..].iter();
        let types = results.map(|function| context.result(&function.result).unwrap());
        assert_eq!(
            types.collect::<Vec<_>>(),
            [
                "Option<ITensor>",
                "ISliceLayer",
                "Dims",
                "*const c_char",
                "()"
            ]
        );
    }

    #[test]
    fn objects_know_where_their_implementation_is() {
        let (_, context) = context();
        let slice = Object {
            virtual_class: "VSliceLayer".to_owned(),
            base: Some("ILayer".to_owned()),
            member: 2,
        };
        assert_eq!(context.objects["ISliceLayer"], slice);
        assert_eq!(context.objects["ITensor"].member, 1);
        assert!(!context.objects.contains_key("IPluginV3Layer"));
        assert_eq!(
            context.object_of("VLayer").map(|(name, _)| name),
            Some("ILayer")
        );
    }
}
