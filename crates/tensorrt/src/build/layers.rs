//! What the library says of an engine's layers while it builds it.
//!
//! The inspector says the same, but of a loaded engine, which needs a GPU that can run it. What
//! was fused with what can so be tested where there is none. The text is for people and no promise
//! of the library: what is not understood is left out, and nothing but tests should depend on it.
//!
//! ```no_run
//! # fn f(builder: &tintype_tensorrt::Builder, network: &tintype_tensorrt::Network<'_>)
//! #     -> tintype_tensorrt::Result<()> {
//! use tintype_tensorrt::build::Verbosity;
//!
//! let mut config = builder.config()?;
//! config.set_verbosity(Verbosity::Detailed)?;
//! let (_, layers) = builder.build_and_list(network, &config, &mut std::io::sink())?;
//! let of_f8 = |dtypes: &[&str]| dtypes.contains(&"FP8");
//! let products = layers.iter().filter(|layer| layer.kind == "gemm");
//! println!("{} products of f8", products.filter(|layer| of_f8(&layer.input_dtypes())).count());
//! # Ok(()) }
//! ```

/// A layer of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineLayer {
    /// Its name, made by the library of those of the network's layers.
    pub name: String,
    /// What it is, in the library's words: `gemm`, `mha` for an attention, `kgen` for a kernel
    /// that it wrote.
    pub kind: String,
    /// What it reads.
    pub inputs: Vec<LayerTensor>,
    /// What it reads of the engine's weights, and what is made of them.
    pub constants: Vec<LayerTensor>,
    /// What it writes.
    pub outputs: Vec<LayerTensor>,
}

/// What a layer reads or writes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerTensor {
    /// Its name.
    pub name: String,
    /// Its dtype in the library's words: `FP8`, `BFloat16`, `Float`.
    pub dtype: String,
    /// Its sizes, those that are known.
    pub sizes: Vec<i64>,
}

impl EngineLayer {
    /// The dtypes of its inputs, in their order.
    pub fn input_dtypes(&self) -> Vec<&str> {
        self.inputs.iter().map(|input| &*input.dtype).collect()
    }
}

/// How the message with the layers begins.
pub(super) const TITLE: &str = "Layers:";

/// The layers of a message, a line each.
pub(super) fn parse(listing: &str) -> impl Iterator<Item = EngineLayer> + '_ {
    listing.lines().filter_map(layer)
}

fn layer(line: &str) -> Option<EngineLayer> {
    let (name, rest) = line.strip_prefix("Name: ")?.split_once(", LayerType: ")?;
    let (kind, rest) = rest.split_once(", ")?;
    let part = |title: &str| tensors(rest, title);
    Some(EngineLayer {
        name: name.to_owned(),
        kind: kind.to_owned(),
        inputs: part("Inputs: ["),
        constants: part("Constants: ["),
        outputs: part("Outputs: ["),
    })
}

/// The tensors of a part: `[ { Name: x, Dimensions: [2,4], …, Datatype: Float, … }, … ]`.
fn tensors(line: &str, title: &str) -> Vec<LayerTensor> {
    let Some((_, mut rest)) = line.split_once(title) else {
        return Vec::new();
    };
    let mut tensors = Vec::new();
    while let Some(item) = rest
        .trim_start_matches(&[' ', ','][..])
        .strip_prefix("{ Name: ")
    {
        let Some((tensor, after)) = tensor(item) else {
            break;
        };
        tensors.push(tensor);
        rest = after;
    }
    tensors
}

fn tensor(item: &str) -> Option<(LayerTensor, &str)> {
    let (name, rest) = item.split_once(", Dimensions: [")?;
    let (sizes, rest) = rest.split_once(']')?;
    let (_, rest) = rest.split_once("Datatype: ")?;
    let (dtype, rest) = rest.split_once(", ")?;
    let (_, rest) = rest.split_once('}')?;
    let tensor = LayerTensor {
        name: name.to_owned(),
        dtype: dtype.to_owned(),
        sizes: sizes
            .split(',')
            .filter_map(|size| size.trim().parse().ok())
            .collect(),
    };
    Some((tensor, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_and_other_lines_are_not() {
        let listing = "Layers:\n\
            Name: quantized, or [not], LayerType: kgen, Inputs: [ { Name: x, Dimensions: [256,1024], \
            Strides: [1024,1], StrideOrder: [1,0], Datatype: BFloat16, Format: (Linear) Row major }], \
            Outputs: [ { Name: y, Dimensions: [256,1024], Strides: [1024,1], StrideOrder: [1,0], \
            Datatype: FP8, Format: (Linear) Row major }], TacticName: t, StreamId: 0, Metadata: \n\
            Name: product, LayerType: gemm, Inputs: [ { Name: y, Dimensions: [], Strides: [], \
            Datatype: FP8, Format: f }, { Name: z, Dimensions: [1], Strides: [1], Datatype: Float, \
            Format: f }], Constants: [ { Name: w, Dimensions: [4,2], Strides: [2,1], \
            Datatype: FP8, Format: f }], Outputs: [], TacticName: t\n\
            \nI/O Tensors:\n Name: x, IOMode: Input, DataType: BFloat16\n";
        let layers: Vec<_> = parse(listing).collect();
        assert_eq!(layers.len(), 2, "{layers:?}");
        let [first, second] = [&layers[0], &layers[1]];
        assert_eq!(
            (&*first.name, &*first.kind),
            ("quantized, or [not]", "kgen")
        );
        assert_eq!(first.input_dtypes(), ["BFloat16"]);
        assert_eq!(first.inputs[0].sizes, [256, 1024]);
        assert_eq!(
            (first.constants.len(), &*first.outputs[0].dtype),
            (0, "FP8")
        );
        assert_eq!(second.input_dtypes(), ["FP8", "Float"]);
        assert_eq!(second.constants[0].name, "w");
        assert!(second.outputs.is_empty());
    }
}
