//! Runs a plan on the host, in a workspace that begins with what is no number.

use tintype_conformance::operations::{Case, Result};
use tintype_cuda::{
    AttentionCall, Expression, Index, Instruction, Place, Plan, Product, View, Work,
};
use tintype_ir::{BinaryOp, GraphBuilder, Op, ReduceOp, Stage, TensorType, UnaryOp};
use tintype_tensor::{DType, Shape, Tensor};
use tintype_weights::Parameters;

use crate::host_kernels;
use crate::on_host;

/// The outputs of a plan by name, its steps run in this order.
pub(crate) fn run(plan: &Plan, order: &[usize], case: &Case) -> Result<Vec<(String, Tensor)>> {
    let mut memory = Memory {
        plan,
        case,
        workspace: vec![0xff; plan.workspace.bytes],
    };
    for &step in order {
        let step = &plan.steps[step];
        memory
            .step(&step.work)
            .map_err(|error| format!("{}: {error}", step.name))?;
    }
    let outputs = plan.outputs.iter();
    outputs
        .map(|(name, view)| Ok((name.clone(), memory.tensor(view)?)))
        .collect()
}

struct Memory<'a> {
    plan: &'a Plan,
    case: &'a Case,
    workspace: Vec<u8>,
}

impl Memory<'_> {
    fn step(&mut self, work: &Work) -> Result<()> {
        match work {
            Work::Kernel(expression) => self.kernel(expression),
            Work::Product(call) if call.codes.is_some() => self.coded(call),
            Work::Product(call) => {
                let op = if call.is_linear {
                    Op::Linear
                } else {
                    Op::MatMul
                };
                let inputs: Vec<_> = work.reads().into_iter().cloned().collect();
                self.operation(op, call.gelu, &inputs, &call.output)
            }
            Work::Attention(call) => self.attention(call),
            Work::Convolution(call) => {
                let inputs: Vec<_> = work.reads().into_iter().cloned().collect();
                self.operation(
                    Op::Conv2d(call.attributes.clone()),
                    false,
                    &inputs,
                    &call.output,
                )
            }
            Work::Special { op, inputs, output } => {
                self.operation(bound(op, output), false, inputs, output)
            }
            other => Err(format!("no way to run a {}", other.kind()).into()),
        }
    }

    /// Has the CPU compute an attention, of codes in f32, and writes its result.
    fn attention(&mut self, call: &AttentionCall) -> Result<()> {
        let op = Op::Attention(call.attributes.clone());
        if call.query_key_value[0].dtype != DType::F8E4M3 {
            let inputs: Vec<_> = call
                .query_key_value
                .iter()
                .chain(&call.bias)
                .cloned()
                .collect();
            return self.operation(op, false, &inputs, &call.output);
        }
        let mut builder = GraphBuilder::new("attention");
        let (mut values, mut tensors) = (Vec::new(), Vec::new());
        for ((view, scale), name) in call
            .query_key_value
            .iter()
            .zip(call.scales)
            .zip(["q", "k", "v"])
        {
            let ty = TensorType::new(view.dtype, view.shape());
            let codes = builder.input(name, Stage::Step, ty);
            let wide = builder.cast(codes, DType::F32);
            let scale = builder.scalar(DType::F32, scale);
            values.push(builder.mul(wide, scale));
            tensors.push((name, self.tensor(view)?));
        }
        let result = builder.op(op, &values);
        builder.output("y", result);
        let weights = Parameters::builder().build()?;
        let found = tintype_cpu::run(&builder.finish()?, &weights, &tensors)?;
        let factor = match &call.output_factor {
            Some(view) => self.read(view)?[0],
            None => 1.0,
        };
        let found = numbers(&found.host("y")?)?;
        let scaled: Vec<f64> = found.into_iter().map(|value| value * factor).collect();
        self.write(&call.output, &scaled)
    }

    /// Has the CPU compute one operation, and writes its result.
    fn operation(&mut self, op: Op, gelu: bool, inputs: &[View], output: &View) -> Result<()> {
        let mut builder = GraphBuilder::new("operation");
        let (mut values, mut tensors) = (Vec::new(), Vec::new());
        for (number, view) in inputs.iter().enumerate() {
            let ty = TensorType::new(view.dtype, view.shape());
            values.push(builder.input(&format!("x{number}"), Stage::Step, ty));
            tensors.push((format!("x{number}"), self.tensor(view)?));
        }
        let mut result = builder.op(op, &values);
        if gelu {
            result = builder.unary(UnaryOp::GeluTanh, result);
        }
        builder.output("y", result);
        let graph = builder.finish()?;
        let inputs: Vec<_> = tensors
            .iter()
            .map(|(name, x)| (name.as_str(), x.clone()))
            .collect();
        let apart = tintype_ir::decompose(&graph, &|_| false)?;
        let weights = Parameters::builder().build()?;
        let found = tintype_cpu::run(&graph, &weights, &inputs);
        let found = found.or_else(|_| tintype_cpu::run(&apart, &weights, &inputs))?;
        self.write(output, &numbers(&found.host("y")?)?)
    }

    /// A linear layer on codes, with sums that are exact and one rounding at the end.
    fn coded(&mut self, call: &Product) -> Result<()> {
        let codes = call.codes.as_ref().ok_or("no codes")?;
        let (input, weight) = (self.read(&call.input)?, self.read(&call.weight)?);
        let [of_input, of_weight] = [self.read(&codes.scales[0])?, self.read(&codes.scales[1])?];
        let bias = call.bias.as_ref().map(|view| self.read(view)).transpose()?;
        let divisor = match &codes.output {
            Some([scale, factor]) => {
                let (scale, factor) = (self.read(scale)?[0], self.read(factor)?[0]);
                if (scale * factor - 1.0).abs() > 1e-6 {
                    return Err(format!("1 by {scale} is {factor}").into());
                }
                scale
            }
            None => 1.0,
        };
        let scale = |scales: &[f64], row: usize| scales[row.min(scales.len() - 1)];
        let k = call.weight.axes[1].size;
        let mut values = Vec::with_capacity(call.output.count());
        for (row, input) in input.chunks(k).enumerate() {
            for (column, weight) in weight.chunks(k).enumerate() {
                let sum: f64 = input.iter().zip(weight).map(|(a, b)| a * b).sum();
                let scaled = sum * scale(&of_input, row) * scale(&of_weight, column);
                let sum = scaled + bias.as_ref().map_or(0.0, |bias| bias[column]);
                let value = if call.gelu {
                    unary(UnaryOp::GeluTanh, sum)
                } else {
                    sum
                };
                values.push(value / divisor);
            }
        }
        self.write(&call.output, &values)
    }

    fn kernel(&mut self, expression: &Expression) -> Result<()> {
        if let Some(compiler) = host_kernels::compiler() {
            return self.compiled_kernel(&compiler, expression);
        }
        let loads: Result<Vec<_>> = expression
            .loads
            .iter()
            .map(|view| self.read(view))
            .collect();
        let values = evaluate(expression, &loads?);
        for store in &expression.stores {
            let scale = f64::from(store.scale.unwrap_or(1.0));
            let scaled: Vec<f64> = values[store.value]
                .iter()
                .map(|value| value / scale)
                .collect();
            self.write(&store.view, &scaled)?;
        }
        Ok(())
    }

    /// Runs the kernel as it is written, on copies of the places that it has to do with.
    fn compiled_kernel(&mut self, compiler: &str, expression: &Expression) -> Result<()> {
        let stores = expression.stores.iter().map(|store| &store.view);
        let views = expression.loads.iter().chain(stores);
        let mut memory = on_host::Memory::new();
        for view in views {
            let index = view.index.map(|index| index.place);
            for place in [Some(view.place), index].into_iter().flatten() {
                memory.insert(place, self.bytes(place)?);
            }
        }
        let before = memory.clone();
        host_kernels::run(compiler, expression, &mut memory)?;
        // Places overlap in the workspace: only what has changed is taken.
        for (place, bytes) in memory {
            if let Place::Buffer(buffer) = place {
                let start = self.plan.offset(buffer);
                for (at, byte) in bytes.iter().enumerate() {
                    if *byte != before[&place][at] {
                        self.workspace[start + at] = *byte;
                    }
                }
            }
        }
        Ok(())
    }

    /// The bytes of a place; of a buffer, the workspace from its beginning on.
    fn bytes(&self, place: Place) -> Result<Vec<u8>> {
        Ok(match place {
            Place::Input(index) => {
                let name = &self.plan.graph.inputs()[index].name;
                let given = self.case.inputs.iter().find(|input| input.0 == *name);
                given.ok_or("an input is missing")?.1.bytes().to_vec()
            }
            Place::Parameter(index) => {
                let name = &self.plan.graph.parameters()[index].name;
                self.case.parameters.get(name)?.bytes().to_vec()
            }
            Place::Constant(index) => match &self.plan.graph.nodes()[index].op {
                Op::Constant(constant) => constant.to_tensor()?.bytes().to_vec(),
                _ => return Err("no constant".into()),
            },
            Place::Buffer(buffer) => self.workspace[self.plan.offset(buffer)..].to_vec(),
        })
    }

    fn tensor(&self, view: &View) -> Result<Tensor> {
        from_numbers(view.dtype, &view.shape(), &self.read(view)?)
    }

    /// All numbers of a place.
    fn place(&self, place: Place, dtype: DType) -> Result<Vec<f64>> {
        match place {
            Place::Input(index) => {
                let name = &self.plan.graph.inputs()[index].name;
                let given = self.case.inputs.iter().find(|input| input.0 == *name);
                numbers(&given.ok_or("an input is missing")?.1)
            }
            Place::Parameter(index) => {
                let name = &self.plan.graph.parameters()[index].name;
                numbers(&self.case.parameters.get(name)?)
            }
            Place::Constant(index) => match &self.plan.graph.nodes()[index].op {
                Op::Constant(constant) => numbers(&constant.to_tensor()?),
                _ => Err("no constant".into()),
            },
            Place::Buffer(buffer) => {
                let bytes = self.workspace[self.plan.offset(buffer)..].to_vec();
                let size = dtype.bits() / 8;
                let count = bytes.len() / size;
                let whole = bytes[..count * size].to_vec();
                numbers(&Tensor::from_bytes(dtype, [count], whole)?)
            }
        }
    }

    fn read(&self, view: &View) -> Result<Vec<f64>> {
        let numbers = self.place(view.place, view.dtype)?;
        let chosen = match view.index {
            Some(index) => self.place(index.place, index.dtype)?,
            None => Vec::new(),
        };
        let places = positions(view);
        Ok(places
            .into_iter()
            .map(|(place, step)| {
                let row = view
                    .index
                    .map_or(0, |index| offset_of(index, &chosen, step));
                numbers[place + row]
            })
            .collect())
    }

    fn write(&mut self, view: &View, values: &[f64]) -> Result<()> {
        let Place::Buffer(buffer) = view.place else {
            return Err("a result outside of the workspace".into());
        };
        let tensor = from_numbers(view.dtype, &[values.len()], values)?;
        let size = view.dtype.bits() / 8;
        for ((place, _), bytes) in positions(view).into_iter().zip(tensor.bytes().chunks(size)) {
            let start = self.plan.offset(buffer) + place * size;
            self.workspace[start..start + size].copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// The operation with its sizes as numbers.
fn bound(op: &Op, output: &View) -> Op {
    match op {
        Op::RelativeBuckets(buckets) => {
            let mut buckets = buckets.clone();
            buckets.queries = output.axes[0].size.into();
            buckets.keys = output.axes[1].size.into();
            Op::RelativeBuckets(buckets)
        }
        op => op.clone(),
    }
}

fn offset_of(index: Index, chosen: &[f64], step: usize) -> usize {
    let row = chosen[index.offset + step] as i64;
    row.clamp(0, index.size as i64 - 1) as usize * index.stride
}

/// For each element of a view, its place and that of its index, without the index's offset.
fn positions(view: &View) -> Vec<(usize, usize)> {
    let mut positions = vec![(view.offset, 0)];
    for axis in &view.axes {
        let along = |(place, step): (usize, usize)| {
            (0..axis.size).map(move |at| (place + at * axis.stride, step + at * axis.step))
        };
        positions = positions.into_iter().flat_map(along).collect();
    }
    positions
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    if tensor.dtype().is_float() {
        return Ok(tensor.to_f32_vec()?.into_iter().map(f64::from).collect());
    }
    Ok(tensor
        .to_i64_vec()?
        .into_iter()
        .map(|value| value as f64)
        .collect())
}

fn from_numbers(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor> {
    if dtype == DType::I64 {
        let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
        return Ok(Tensor::new(Shape::from(shape), values)?);
    }
    let values = values.iter().map(|&value| value as f32).collect();
    Ok(Tensor::from_f32_as(dtype, Shape::from(shape), values)?)
}

/// The values of every instruction over the whole domain.
fn evaluate(expression: &Expression, loads: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (count, row) = (expression.count(), expression.row_length());
    let integers = expression.are_integers();
    let mut values: Vec<Vec<f64>> = Vec::new();
    for instruction in &expression.instructions {
        let each = |f: &dyn Fn(usize) -> f64| (0..count).map(f).collect::<Vec<f64>>();
        let result = match *instruction {
            Instruction::Load(load) => loads[load].clone(),
            Instruction::Float(value) => vec![f64::from(value); count],
            Instruction::Integer(value) => vec![value as f64; count],
            Instruction::Position(axis) => {
                let inner: usize = expression.domain[axis + 1..].iter().product();
                each(&|at| (at / inner % expression.domain[axis]) as f64)
            }
            Instruction::Unary(op, x) => each(&|at| unary(op, values[x][at])),
            Instruction::Binary(BinaryOp::Div, a, b) if integers[a] => {
                each(&|at| (values[a][at] / values[b][at]).trunc())
            }
            Instruction::Binary(op, a, b) => each(&|at| binary(op, values[a][at], values[b][at])),
            Instruction::Select(condition, a, b) => each(&|at| {
                let chosen = if values[condition][at] == 0.0 { b } else { a };
                values[chosen][at]
            }),
            Instruction::Clamp(x, low, high) => {
                each(&|at| values[x][at].clamp(f64::from(low), f64::from(high)))
            }
            Instruction::Cast(dtype, x) => each(&|at| cast(dtype, values[x][at])),
            Instruction::Wrap(dtype, x) => each(&|at| wrapped(dtype, values[x][at])),
            Instruction::Reduce(op, x) => {
                let rows = values[x].chunks(row.max(1));
                rows.flat_map(|values| vec![reduce(op, values); row])
                    .collect()
            }
            Instruction::Turn(x, table) => each(&|at| {
                let (even, odd) = (at & !1, at | 1);
                let (cosine, sine) = (values[table][even], values[table][odd]);
                let x = &values[x];
                if at == even {
                    x[even] * cosine - x[odd] * sine
                } else {
                    x[odd] * cosine + x[even] * sine
                }
            }),
        };
        values.push(result);
    }
    values
}

fn cast(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => x,
        DType::I64 => x.trunc(),
        dtype => f64::from(dtype.round(x as f32)),
    }
}

fn wrapped(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::I32 => f64::from(x as i64 as i32),
        DType::U8 => f64::from(x as i64 as u8),
        _ => x,
    }
}

fn reduce(op: ReduceOp, values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    match op {
        ReduceOp::Sum => sum,
        ReduceOp::Mean => sum / values.len() as f64,
        _ => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

fn unary(op: UnaryOp, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Sigmoid => sigmoid(x),
        UnaryOp::Silu => x * sigmoid(x),
        UnaryOp::GeluQuick => x * sigmoid(1.702 * x),
        UnaryOp::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / 2.0 * (1.0 + inner.tanh())
        }
        UnaryOp::GeluErf => x / 2.0 * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        _ => erf(x),
    }
}

/// By its series, which converges well where the function is not yet 1.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn binary(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Equal => f64::from(u8::from(a == b)),
        _ => f64::from(u8::from(a < b)),
    }
}
