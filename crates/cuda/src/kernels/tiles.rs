//! The kernels of products and convolutions: `output[m, n] = Σ left[m, k] · right[n, k]`, in tiles.
//!
//! Where elements lie is text: for each operand the body of a function from (batch, row, k) to a
//! place. 16-bit floats run on tensor cores from Ampere on, and codes of 8 bits that are widened
//! to bf16 on their way, which loses nothing; all else runs in f32.
//!
//! ```ignore
//! let kernel = Tiles { batch: 1, depth: 3072, left, right, bias: None, gelu: false, output, .. };
//! let generated = kernel.generate("linear", &machine)?;
//! ```

use std::fmt::Write as _;

use tintype_device::{ELEMENT_TYPES, Source};
use tintype_tensor::DType;

use super::address::{address_of, type_of};
use super::{MATRIX, Machine};
use crate::generate::FUNCTIONS;
use crate::{Error, Generated, KernelArgument, Result, View};

/// A product in tiles.
#[derive(Debug)]
pub(super) struct Tiles<'a> {
    /// How many independent products.
    pub(super) batch: usize,
    /// The length of the sums.
    pub(super) depth: usize,
    pub(super) left: Operand<'a>,
    pub(super) right: Operand<'a>,
    pub(super) bias: Option<Bias<'a>>,
    /// What sums of products of codes are multiplied by.
    pub(super) scales: Option<Scales<'a>>,
    /// Whether GELU in its tanh form comes last.
    pub(super) gelu: bool,
    pub(super) output: Output<'a>,
}

/// Rows of elements along k.
#[derive(Debug)]
pub(super) struct Operand<'a> {
    pub(super) view: &'a View,
    pub(super) rows: usize,
    /// Statements that set `at` from `batch`, `row` and `k`, and return whether there is one.
    pub(super) place: String,
    /// Whether 8 elements along k are one access.
    pub(super) is_packed: bool,
    /// Whether neighbours in memory are neighbours along the rows, not along k.
    pub(super) is_along_rows: bool,
}

/// What is added to each column.
#[derive(Debug)]
pub(super) struct Bias<'a> {
    pub(super) view: &'a View,
    /// The place from `batch` and `n`.
    pub(super) place: String,
}

/// What codes mean.
#[derive(Debug)]
pub(super) struct Scales<'a> {
    /// Of the left operand and the right one.
    pub(super) views: [&'a View; 2],
    /// Their places, from `m` and `n`.
    pub(super) places: [String; 2],
    /// What results are divided by.
    pub(super) output: Option<&'a View>,
}

/// Where results go.
#[derive(Debug)]
pub(super) struct Output<'a> {
    pub(super) view: &'a View,
    /// The place of column 0 from `batch` and `m`.
    pub(super) place: String,
    /// From one column to the next.
    pub(super) step: usize,
    /// Whether columns 2 i and 2 i + 1 are one access.
    pub(super) is_paired: bool,
}

impl Tiles<'_> {
    /// Writes the kernel.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for operands of different dtypes, for whole numbers, and for sizes
    /// of more than 32 bits.
    pub(super) fn generate(&self, step: &str, machine: &Machine) -> Result<Generated> {
        self.check(step)?;
        let element = self.element();
        let is_matrix = machine.has_matrices() && is_16_bit(element);
        let (tile, body, shared_bytes) = if is_matrix {
            (128, TILES, 3 * 2 * 128 * (32 + 8) * 2)
        } else {
            (64, PLAIN_TILES, 0)
        };
        let name = if is_matrix { "tiles" } else { "plain_tiles" };
        let matrix = if is_matrix { MATRIX } else { "" };
        let blocks = [self.left.rows, self.right.rows].map(|rows| rows.div_ceil(tile));
        let count = self.batch * blocks[0] * blocks[1];
        let text = [
            ELEMENT_TYPES,
            FUNCTIONS,
            matrix,
            &self.head(name, blocks),
            body,
        ];
        Ok(Generated {
            source: Source::new(format!("{step}.cu"), text.concat()),
            name: name.to_owned(),
            blocks: count,
            threads: 256,
            shared_bytes,
            scratch_bytes: 0,
            arguments: self.arguments(),
        })
    }

    fn check(&self, step: &str) -> Result<()> {
        let (left, right) = (self.left.view.dtype, self.right.view.dtype);
        let is_float = |dtype: DType| dtype.is_float() && dtype.bits() >= 8;
        if left != right || !is_float(left) || !is_float(self.output.view.dtype) {
            let output = self.output.view.dtype;
            let message =
                format!("expected floats of one dtype, found {left} · {right} to {output}");
            return Err(Error::unsupported(step, message));
        }
        let sizes = [self.left.rows, self.right.rows, self.depth, self.batch];
        // Positions of a tile may lie past the end.
        if sizes.iter().any(|&size| size >= u32::MAX as usize - 256) {
            return Err(Error::unsupported(step, format!("sizes {sizes:?}")));
        }
        Ok(())
    }

    /// The dtype that is multiplied.
    fn element(&self) -> DType {
        match self.left.view.dtype {
            // Three bits of mantissa and four of exponent are among bf16's.
            DType::F8E4M3 if self.scales.is_some() => DType::BF16,
            dtype => dtype,
        }
    }

    fn arguments(&self) -> Vec<KernelArgument> {
        let bias = self.bias.as_ref().map(|bias| bias.view);
        let scales = self.scales.iter();
        let scales = scales.flat_map(|scales| scales.views.into_iter().chain(scales.output));
        let views = [self.left.view, self.right.view].into_iter();
        let views = views.chain(bias).chain(scales);
        views.chain([self.output.view]).map(address_of).collect()
    }

    /// What stands in front of the body.
    fn head(&self, name: &str, [down, across]: [usize; 2]) -> String {
        let mut text = format!(
            "#define KERNEL {name}\n\
             typedef {} Source;\n\
             typedef {} Element;\n\
             typedef {} Result;\n\
             constexpr u32 K = {}u;\n",
            type_of(self.left.view.dtype),
            type_of(self.element()),
            type_of(self.output.view.dtype),
            self.depth,
        );
        self.left.write(&mut text, "Left");
        self.right.write(&mut text, "Right");
        self.output.write(&mut text);
        self.write_finish(&mut text);
        _ = write!(
            text,
            "// Eight tiles down go together, so that blocks of one time share what they read.\n\
             __device__ __forceinline__ void tile_of_block(\n\
             u32 tile, u32& batch, u32& first_m, u32& first_n\n) {{\n\
             constexpr u32 DOWN = {down}u, ACROSS = {across}u;\n\
             const u32 rest = blockIdx.x % (DOWN * ACROSS), group = rest / (8 * ACROSS);\n\
             const u32 inside = rest % (8 * ACROSS);\n\
             const u32 height = DOWN - group * 8 < 8 ? DOWN - group * 8 : 8;\n\
             batch = blockIdx.x / (DOWN * ACROSS);\n\
             first_m = (group * 8 + inside % height) * tile;\n\
             first_n = inside / height * tile;\n}}\n"
        );
        text
    }
}

impl Tiles<'_> {
    /// What is done with a sum: `finish(sum, …, batch, m, n)`.
    fn write_finish(&self, text: &mut String) {
        let (mut parameters, mut arguments) = (String::new(), String::new());
        let mut parameter = |kind: &str, name: &str| {
            _ = write!(parameters, "const {kind}* {name}, ");
            _ = write!(arguments, "{name}, ");
        };
        let mut lines = String::new();
        if let Some(bias) = &self.bias {
            parameter(type_of(bias.view.dtype), "bias");
        }
        if let Some(scales) = &self.scales {
            parameter("float", "left_scale");
            parameter("float", "right_scale");
            let [left, right] = &scales.places;
            _ = writeln!(
                lines,
                "x *= left_scale[{left}];\nx *= right_scale[{right}];"
            );
        }
        if let Some(bias) = &self.bias {
            _ = writeln!(lines, "x += widen(bias[{}]);", bias.place);
        }
        if self.gelu {
            lines.push_str("x = gelu_tanh(x);\n");
        }
        if self
            .scales
            .as_ref()
            .is_some_and(|scales| scales.output.is_some())
        {
            parameter("float", "output_scale");
            lines.push_str("x /= output_scale[0];\n");
        }
        _ = write!(
            text,
            "#define MORE_PARAMETERS {parameters}\n\
             #define MORE_ARGUMENTS {arguments}\n\
             __device__ __forceinline__ float finish(\n\
             float x, MORE_PARAMETERS u32 batch, u32 m, u32 n\n) {{\n{lines}return x;\n}}\n"
        );
    }
}

impl Operand<'_> {
    fn write(&self, text: &mut String, name: &str) {
        _ = writeln!(
            text,
            "struct {name} {{\n\
             static constexpr u32 ROWS = {}u;\n\
             static constexpr bool PACKED = {}, ALONG_ROWS = {};\n\
             static __device__ __forceinline__ bool place(u32 batch, u32 row, u32 k, u64& at) \
             {{ {} }}\n}};",
            self.rows, self.is_packed, self.is_along_rows, self.place
        );
    }
}

impl Output<'_> {
    fn write(&self, text: &mut String) {
        _ = writeln!(
            text,
            "struct Output {{\n\
             static constexpr bool PAIRED = {}, ALONG_ROWS = {};\n\
             static constexpr u64 STEP = {}ull;\n\
             static __device__ __forceinline__ u64 place(u32 batch, u32 m) \
             {{ return {}; }}\n}};",
            self.is_paired,
            self.step != 1,
            self.step,
            self.place
        );
    }
}

fn is_16_bit(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

const TILES: &str = include_str!("../../kernels/tiles.cu");
const PLAIN_TILES: &str = include_str!("../../kernels/plain_tiles.cu");
