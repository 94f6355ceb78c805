//! Each kernel, through weight programs of one operation, against the CPU.

use std::sync::Arc;

use tintype_cpu::CpuEvaluator;
use tintype_device::{WeightPlan, WeightProgram};
use tintype_ir::Graph;
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_weights::Parameters;

use crate::{Bench, Result};

/// One program with its parameters.
struct Case {
    name: String,
    /// Lines of the graph between its braces.
    body: String,
    /// With their dtypes in the program, which need not be those in which they are stored.
    parameters: Vec<(&'static str, Tensor, DType)>,
    tolerance: f64,
}

/// All of them against the CPU.
pub(crate) fn check(bench: &mut Bench) -> Result<()> {
    for case in cases(&mut bench.generator)? {
        case.run(bench)?;
    }
    Ok(())
}

/// Whether the CPU runs each and a kernel would: all that can be seen without a GPU. Gives
/// their number.
pub(crate) fn check_without_device(generator: &mut TorchGenerator) -> Result<usize> {
    let cases = cases(generator)?;
    for case in &cases {
        let (graph, parameters) = case.program()?;
        if WeightPlan::new(&graph, None)?.on_host().count() > 0 {
            return Err(format!("{} has no kernel", case.name).into());
        }
        tintype_cpu::run(&graph, &parameters, &[])?;
    }
    Ok(cases.len())
}

fn cases(generator: &mut TorchGenerator) -> Result<Vec<Case>> {
    let mut cases = casts(generator)?;
    cases.extend(elementwise(generator)?);
    cases.extend(layouts(generator)?);
    cases.extend(reductions(generator)?);
    cases.extend(products(generator)?);
    Ok(cases)
}

impl Case {
    fn new(name: impl Into<String>, body: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            body: body.into(),
            parameters: Vec::new(),
            tolerance: 0.0,
        }
    }

    fn with(mut self, name: &'static str, tensor: Tensor) -> Self {
        let dtype = tensor.dtype();
        self.parameters.push((name, tensor, dtype));
        self
    }

    /// A parameter that the program reads in f32, however it is stored.
    fn with_stored(mut self, name: &'static str, tensor: Tensor) -> Self {
        self.parameters.push((name, tensor, DType::F32));
        self
    }

    fn within(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    fn program(&self) -> Result<(Graph, Parameters)> {
        let mut text = "graph \"check\" {\n".to_owned();
        let mut builder = Parameters::builder();
        for (name, tensor, dtype) in &self.parameters {
            let shape = tensor.shape();
            text.push_str(&format!("  param @{name}: {dtype}{shape}\n"));
            builder = builder.tensor(*name, tensor.clone());
        }
        text.push_str(&self.body);
        text.push_str("\n}\n");
        let graph = tintype_ir::parse(&text).map_err(|error| format!("{error} in\n{text}"))?;
        tintype_ir::verify(&graph)?;
        Ok((graph, builder.build()?))
    }

    fn run(self, bench: &mut Bench) -> Result<()> {
        let (graph, parameters) = self.program()?;
        let on_host = WeightPlan::new(&graph, None)?.on_host().count();
        if on_host > 0 {
            bench.report.line(&self.name, false, "has no kernel");
            return Ok(());
        }
        let expected = tintype_cpu::run(&graph, &parameters, &[])?;
        let program = WeightProgram {
            graph: &Arc::new(graph),
            parameters: &parameters,
            wanted: None,
            evaluator: &CpuEvaluator,
            kept: None,
            in_place: None,
        };
        let mut outputs = Vec::new();
        bench.runner.run(&program, &mut |name, tensor| {
            outputs.push((name.to_owned(), tensor));
            Ok(())
        })?;
        for (name, tensor) in outputs {
            let found = tensor.download(bench.runner.stream())?;
            let expected = expected.host(&name)?;
            let tolerance = self.tolerance;
            bench
                .report
                .compare(&self.name, &found, &expected, tolerance);
        }
        Ok(())
    }
}

const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F8E4M3];

/// A merge whose factors are a scale apart.
fn scaled(name: &str, body: &str, [_, columns, inner]: [usize; 3]) -> Case {
    let scaled = format!("  %9: f32[{inner}, {columns}] = mul @down, @scale\n");
    let body = body.replace("matmul @up, @down", "matmul @up, %9");
    Case::new(name, scaled + &body)
}

/// Every value of the small dtypes, and of f32 all upper halves with lower halves around ties.
fn all_values(dtype: DType, generator: &mut TorchGenerator) -> Result<Tensor> {
    let bytes: Vec<u8> = match dtype {
        DType::F8E4M3 => (0..=255).collect(),
        DType::F16 | DType::BF16 => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        _ => {
            let ties = [
                0u32, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff,
            ];
            let exact = (0..=0xffffu32).flat_map(|high| ties.map(|low| (high << 16) | low));
            let random = generator.randn([999_983])?;
            let random = random.to_f32_vec()?.into_iter().map(f32::to_bits);
            exact.chain(random).flat_map(u32::to_le_bytes).collect()
        }
    };
    let count = bytes.len() * 8 / dtype.bits();
    Ok(Tensor::from_bytes(dtype, [count], bytes)?)
}

fn casts(generator: &mut TorchGenerator) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for from in FLOATS {
        let tensor = all_values(from, generator)?;
        let count = tensor.element_count();
        for to in FLOATS.into_iter().filter(|&to| to != from) {
            let body = format!("  %0: {to}[{count}] = cast @x\n  output y = %0");
            let name = format!("cast {from} to {to}, all values");
            cases.push(Case::new(name, body).with("x", tensor.clone()));
        }
    }
    Ok(cases)
}

/// Random values; with `positive`, their absolute values and some more.
fn random(
    generator: &mut TorchGenerator,
    dtype: DType,
    shape: &[usize],
    positive: bool,
) -> Result<Tensor> {
    let tensor = generator.randn(shape.to_vec())?;
    if !positive {
        return Ok(tensor.to_dtype(dtype)?);
    }
    let values = tensor.to_f32_vec()?;
    let values = values.into_iter().map(|value| value.abs() + 0.25).collect();
    Ok(Tensor::from_f32_as(dtype, shape.to_vec(), values)?)
}

fn elementwise(generator: &mut TorchGenerator) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        // One rounding of f32 to the dtype may fall the other way.
        let tolerance = if dtype == DType::F32 { 3e-7 } else { 1e-4 };
        for op in ["neg", "abs", "sqrt", "rsqrt", "reciprocal"] {
            let x = random(
                generator,
                dtype,
                &[10_007],
                matches!(op, "sqrt" | "rsqrt" | "reciprocal"),
            )?;
            let body = format!("  %0: {dtype}[10007] = {op} @x\n  output y = %0");
            let case = Case::new(format!("{op} of {dtype}"), body).with("x", x);
            cases.push(case.within(tolerance));
        }
        let x = random(generator, dtype, &[10_007], false)?;
        let body =
            format!("  %0: {dtype}[10007] = clamp @x {{min = -0.7, max = 1.3}}\n  output y = %0");
        cases.push(Case::new(format!("clamp of {dtype}"), body).with("x", x));
        for op in ["add", "sub", "mul", "div", "max", "min"] {
            for (a, b, result) in PAIRS {
                let left = random(generator, dtype, a, false)?;
                let right = random(generator, dtype, b, true)?;
                let body = format!("  %0: {dtype}{result:?} = {op} @a, @b\n  output y = %0");
                let name = format!("{op} of {dtype} {a:?} and {b:?}");
                let case = Case::new(name, body).with("a", left).with("b", right);
                cases.push(case.within(tolerance));
            }
        }
    }
    Ok(cases)
}

/// Shapes of two operands and their result.
const PAIRS: [(&[usize], &[usize], &[usize]); 5] = [
    (&[33, 65], &[33, 65], &[33, 65]),
    (&[33, 65], &[], &[33, 65]),
    (&[33, 65], &[33, 1], &[33, 65]),
    (&[65], &[33, 65], &[33, 65]),
    (&[3, 1, 5, 1], &[1, 7, 1, 9], &[3, 7, 5, 9]),
];

/// A tensor of any dtype with different elements.
fn numbered(dtype: DType, shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    if dtype.is_float() {
        let values = (0..count)
            .map(|index| (index % 251) as f32 * 0.125 - 14.0)
            .collect();
        return Ok(Tensor::from_f32_as(dtype, shape.to_vec(), values)?);
    }
    let limit = if dtype == DType::Bool { 2 } else { 251 };
    let bytes = (0..count * dtype.bits() / 8).map(|index| (index % limit) as u8);
    Ok(Tensor::from_bytes(dtype, shape.to_vec(), bytes.collect())?)
}

fn layouts(generator: &mut TorchGenerator) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let bodies: [(&str, &[usize], &str); 12] = [
        (
            "transpose of a matrix",
            &[97, 130],
            "[130, 97] = transpose @x {permutation = [1, 0]}",
        ),
        (
            "transpose of matrices",
            &[5, 66, 34],
            "[5, 34, 66] = transpose @x {permutation = [0, 2, 1]}",
        ),
        (
            "transpose of rows",
            &[9, 12, 64],
            "[12, 9, 64] = transpose @x {permutation = [1, 0, 2]}",
        ),
        (
            "transpose of four axes",
            &[4, 5, 6, 7],
            "[7, 5, 4, 6] = transpose @x {permutation = [3, 1, 0, 2]}",
        ),
        ("reshape", &[12, 10], "[8, 15] = reshape @x"),
        (
            "slice of rows",
            &[40, 33],
            "[7, 33] = slice @x {axis = 0, start = 30, end = 37}",
        ),
        (
            "slice of columns",
            &[40, 33],
            "[40, 5] = slice @x {axis = 1, start = 3, end = 8}",
        ),
        (
            "slice of aligned columns",
            &[40, 64],
            "[40, 16] = slice @x {axis = 1, start = 32, end = 48}",
        ),
        (
            "concat of rows",
            &[5, 33],
            "[10, 33] = concat @x, @x {axis = 0}",
        ),
        (
            "concat of columns",
            &[33, 5],
            "[33, 15] = concat @x, @x, @x {axis = 1}",
        ),
        ("broadcast of a column", &[33, 1], "[33, 21] = broadcast @x"),
        (
            "broadcast to more axes",
            &[3, 1, 8],
            "[2, 3, 4, 8] = broadcast @x",
        ),
    ];
    let dtypes = [
        DType::F32,
        DType::BF16,
        DType::F8E4M3,
        DType::I64,
        DType::Bool,
    ];
    for dtype in dtypes {
        for (name, shape, body) in bodies {
            let body = format!("  %0: {dtype}{body}\n  output y = %0");
            // Printing types of attributes is the parser's business: dims stand in the type.
            let case = Case::new(format!("{name}, {dtype}"), body);
            cases.push(case.with("x", numbered(dtype, shape)?));
        }
    }
    let large = random(generator, DType::BF16, &[2049, 4100], false)?;
    let body = "  %0: bf16[4100, 2049] = transpose @x {permutation = [1, 0]}\n  output y = %0";
    cases.push(Case::new("transpose of a large matrix", body).with("x", large));
    Ok(cases)
}

fn reductions(generator: &mut TorchGenerator) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let shapes: [(&[usize], &str, &str); 6] = [
        (&[300, 5000], "[1]", "[300, 1]"),
        (&[5000, 300], "[0]", "[1, 300]"),
        (&[300, 5001], "[0, 1]", "[1, 1]"),
        (&[7, 41, 33], "[1]", "[7, 1, 33]"),
        (&[7, 41, 33], "[1, 2]", "[7, 1, 1]"),
        (&[3], "[0]", "[1]"),
    ];
    for dtype in FLOATS {
        for op in ["reduce_sum", "reduce_mean", "reduce_max"] {
            for (shape, axes, result) in shapes {
                let x = random(generator, dtype, shape, op != "reduce_max")?;
                let body =
                    format!("  %0: {dtype}{result} = {op} @x {{axes = {axes}}}\n  output y = %0");
                let name = format!("{op} of {dtype} {shape:?} over {axes}");
                // A sum between two values of the dtype may go either way.
                let tolerance = match (op, dtype) {
                    ("reduce_max", _) => 0.0,
                    // The CPU's own sum of so many is no better.
                    (_, DType::F32) if axes == "[0, 1]" => 3e-5,
                    (_, DType::F32) => 3e-6,
                    (_, DType::F16) => 1e-3,
                    (_, DType::BF16) => 8e-3,
                    _ => 7e-2,
                };
                cases.push(Case::new(name, body).with("x", x).within(tolerance));
            }
        }
    }
    Ok(cases)
}

fn products(generator: &mut TorchGenerator) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let sizes = [
        (1, 1, 1),
        (64, 64, 16),
        (65, 63, 17),
        (130, 200, 4),
        (257, 129, 300),
        (512, 1024, 64),
    ];
    for (rows, columns, inner) in sizes {
        let up = random(generator, DType::F32, &[rows, inner], false)?;
        let down = random(generator, DType::F32, &[inner, columns], false)?;
        let product = format!("f32[{rows}, {columns}] = matmul @up, @down");
        let body = format!("  %0: {product}\n  output y = %0");
        let name = format!("product {rows} × {columns} × {inner}");
        let case = Case::new(name, body).with("up", up.clone());
        cases.push(case.with("down", down.clone()).within(1e-6));
        for dtype in FLOATS {
            let base = random(generator, dtype, &[rows, columns], false)?;
            let ty = format!("[{rows}, {columns}]");
            let body = if dtype == DType::F32 {
                format!("  %0: {product}\n  %1: f32{ty} = add @base, %0\n  output y = %1")
            } else {
                format!(
                    "  %0: f32{ty} = cast @base\n  %1: {product}\n  %2: f32{ty} = add %0, %1\n  \
                     %3: {dtype}{ty} = cast %2\n  output y = %3"
                )
            };
            let tolerance = match dtype {
                DType::F32 => 1e-6,
                DType::F16 => 1e-4,
                DType::BF16 => 4e-4,
                _ => 6e-3,
            };
            let name = format!("merge to {dtype} {rows} × {columns} × {inner}");
            let case = Case::new(&name, &body).with("up", up.clone());
            let case = case.with("down", down.clone()).with("base", base.clone());
            cases.push(case.within(tolerance));
            for stored in [DType::F32, DType::F16, DType::BF16, DType::F8E4M3] {
                cases.push(
                    scaled(
                        &format!("{name}, factors of {stored}"),
                        &body,
                        [rows, columns, inner],
                    )
                    .with_stored("up", up.to_dtype(stored)?)
                    .with_stored("down", down.to_dtype(stored)?)
                    .with("scale", random(generator, DType::F32, &[], false)?)
                    .with("base", base.clone())
                    .within(tolerance),
                );
            }
        }
    }
    Ok(cases)
}
