//! Writing a kernel: the loop over its domain, loads, arithmetic, reductions, stores.
//!
//! Values of a row are scalars before and between loops; values of elements are arrays of a pack,
//! kept over the loops of a row where they fit into registers and computed again where not.
//!
//! ```ignore
//! let text = Writer::new(&expression, schedule).kernel("silu");
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;

use tintype_ir::ReduceOp;
use tintype_tensor::DType;

use super::arithmetic::{float, value_of};
use super::expression::{Expression, Instruction, Store};
use super::schedule::Schedule;
use crate::View;

pub(super) struct Writer<'a> {
    expression: &'a Expression,
    schedule: Schedule,
    is_integer: Vec<bool>,
    is_of_row: Vec<bool>,
    /// What earlier loops over the row have computed and kept.
    kept: BTreeSet<usize>,
    text: String,
}

impl<'a> Writer<'a> {
    pub(super) fn new(expression: &'a Expression, schedule: Schedule) -> Self {
        Self {
            expression,
            schedule,
            is_integer: expression.are_integers(),
            is_of_row: expression.are_of_rows(),
            kept: BTreeSet::new(),
            text: String::new(),
        }
    }

    /// The whole kernel.
    pub(super) fn kernel(mut self, name: &str) -> String {
        self.line(&format!(
            "extern \"C\" __global__ void __launch_bounds__({}) {name}({}) {{",
            self.schedule.threads,
            self.parameters().join(", ")
        ));
        if self.expression.row_axes == 0 {
            self.elements();
        } else {
            self.rows();
        }
        self.line("}");
        self.text
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// In the order of [`Generated::arguments`](super::Generated).
    fn parameters(&self) -> Vec<String> {
        let mut parameters = Vec::new();
        for (number, view) in self.expression.loads.iter().enumerate() {
            parameters.push(format!("const {}* l{number}", type_of(view.dtype)));
            if let Some(index) = view.index {
                parameters.push(format!("const {}* x{number}", type_of(index.dtype)));
            }
        }
        for (number, store) in self.expression.stores.iter().enumerate() {
            parameters.push(format!("{}* s{number}", type_of(store.view.dtype)));
            if store.scale.is_some() {
                parameters.push(format!("float q{number}"));
            }
        }
        parameters
    }

    /// A kernel without rows: each thread takes packs.
    fn elements(&mut self) {
        let packs = self.expression.count() / self.schedule.pack;
        self.scalars();
        self.line(&format!(
            "for (u64 pack = thread_index(); pack < {packs}ull; pack += thread_count()) {{"
        ));
        self.coordinates("pack", 0, self.expression.domain.len(), self.schedule.pack);
        let targets: Vec<usize> = self
            .expression
            .stores
            .iter()
            .map(|store| store.value)
            .collect();
        self.values(&targets);
        self.stores(|_| true);
        self.line("}");
    }

    /// A kernel of rows: some threads, or a block, take one together.
    fn rows(&mut self) {
        let (schedule, expression) = (self.schedule, self.expression);
        let first = expression.domain.len() - expression.row_axes;
        let rows: usize = expression.domain[..first].iter().product();
        let threads = schedule.row_threads;
        self.line(&format!("const u32 lane = threadIdx.x % {threads}u;"));
        self.line(&format!(
            "const u64 own = (u64)blockIdx.x * {}u + threadIdx.x / {threads}u;",
            schedule.rows_of_block()
        ));
        // Threads without a row go along, since their warp needs them in reductions.
        self.line(&format!("const bool has_row = own < {rows}ull;"));
        self.line("const u64 row = has_row ? own : 0;");
        self.coordinates("row", 0, first, 1);
        if schedule.is_kept {
            for (number, instruction) in expression.instructions.iter().enumerate() {
                if !self.is_of_row[number] && !matches!(instruction, Instruction::Float(_)) {
                    let (kind, packs, pack) =
                        (self.kind(number), schedule.row_packs, schedule.pack);
                    self.line(&format!("{kind} v{number}[{packs}][{pack}];"));
                }
            }
        }
        self.scalars();
        self.line("if (has_row) {");
        self.row_stores();
        self.line("}");
        self.begin_row(true);
        let in_row = |store: &&Store| !self.is_of_row[store.value];
        let stores = expression.stores.iter().filter(in_row);
        let targets: Vec<usize> = stores.map(|store| store.value).collect();
        self.values(&targets);
        let is_of_row = self.is_of_row.clone();
        self.stores(|store| !is_of_row[store.value]);
        self.end_row();
    }

    /// Values that are the same for all of a row, in order, with the loops that reduce.
    fn scalars(&mut self) {
        for number in 0..self.expression.instructions.len() {
            if !self.is_of_row[number] {
                continue;
            }
            let kind = self.kind(number);
            match self.expression.instructions[number] {
                Instruction::Reduce(op, source) => self.reduction(number, op, source),
                Instruction::Load(load) => {
                    let view = &self.expression.loads[load];
                    let element = format!("l{load}[{}]", address(view, Some(load), "0"));
                    let value = widened(view.dtype, &element);
                    self.line(&format!("const {kind} v{number} = {value};"));
                }
                instruction => {
                    let value = value_of(instruction, &self.is_integer, &|operand| {
                        format!("v{operand}")
                    });
                    self.line(&format!("const {kind} v{number} = {value};"));
                }
            }
        }
    }

    fn reduction(&mut self, number: usize, op: ReduceOp, source: usize) {
        let (neutral, function) = match op {
            ReduceOp::Max => (float(f32::NEG_INFINITY), "Greatest"),
            _ => ("0.0f".to_owned(), "Sum"),
        };
        self.line(&format!("float r{number} = {neutral};"));
        self.begin_row(false);
        self.values(&[source]);
        self.begin_pack();
        let value = self.element(source);
        self.line(&format!("r{number} = {function}::of(r{number}, {value});"));
        self.line("}");
        self.end_row();
        let threads = self.schedule.row_threads;
        let factor = match op {
            ReduceOp::Mean => format!(" * {}", float(1.0 / self.expression.row_length() as f32)),
            _ => String::new(),
        };
        self.line(&format!(
            "const float v{number} = of_row<{function}, {threads}>(r{number}){factor};"
        ));
    }

    fn begin_row(&mut self, is_guarded: bool) {
        let Schedule {
            pack,
            row_threads,
            row_packs,
            is_kept,
            ..
        } = self.schedule;
        let packs = self.expression.row_length() / pack;
        self.line(if is_kept {
            "#pragma unroll"
        } else {
            "#pragma unroll 1"
        });
        self.line(&format!("for (u32 i = 0; i < {row_packs}u; ++i) {{"));
        self.line(&format!("const u32 pack = i * {row_threads}u + lane;"));
        let guard = if is_guarded { "has_row && " } else { "" };
        self.line(&format!("if ({guard}pack < {packs}u) {{"));
        let rank = self.expression.domain.len();
        self.coordinates("pack", rank - self.expression.row_axes, rank, pack);
    }

    fn end_row(&mut self) {
        self.line("} }");
    }

    fn begin_pack(&mut self) {
        let pack = self.schedule.pack;
        self.line("#pragma unroll");
        self.line(&format!("for (int e = 0; e < {pack}; ++e) {{"));
    }

    /// Positions `c…` along axes, from a count of packs.
    fn coordinates(&mut self, from: &str, first: usize, end: usize, pack: usize) {
        let count: usize = self.expression.domain[first..end].iter().product();
        let kind = if count >> 32 == 0 { "u32" } else { "u64" };
        let mut rest = format!("({kind}){from}");
        for axis in (first..end).rev() {
            let is_last = axis + 1 == end && pack > 1;
            let size = self.expression.domain[axis] / if is_last { pack } else { 1 };
            let factor = if is_last {
                format!(" * {pack}u")
            } else {
                String::new()
            };
            if axis == first {
                self.line(&format!("const u64 c{axis} = (u64)({rest}){factor};"));
            } else {
                self.line(&format!(
                    "const u64 c{axis} = (u64)({rest} % {size}u){factor};"
                ));
                rest = format!("{rest} / {size}u");
            }
        }
    }

    /// Computes elements that are not there yet.
    fn values(&mut self, targets: &[usize]) {
        let mut needed = BTreeSet::new();
        let mut open = targets.to_vec();
        while let Some(number) = open.pop() {
            let is_there = self.is_of_row[number] || self.kept.contains(&number);
            if !is_there && needed.insert(number) {
                open.extend(self.expression.instructions[number].operands());
            }
        }
        for &number in &needed {
            if !self.schedule.is_kept {
                let (kind, pack) = (self.kind(number), self.schedule.pack);
                self.line(&format!("{kind} v{number}[{pack}];"));
            }
            match self.expression.instructions[number] {
                Instruction::Load(load) => self.load(number, load),
                Instruction::Position(axis) => self.position(number, axis),
                Instruction::Turn(x, table) => self.turn(number, x, table),
                instruction => {
                    self.begin_pack();
                    let value = value_of(instruction, &self.is_integer, &|operand| {
                        self.element(operand)
                    });
                    let target = self.element(number);
                    self.line(&format!("{target} = {value}; }}"));
                }
            }
        }
        if self.schedule.is_kept {
            self.kept.extend(needed);
        }
    }

    fn load(&mut self, number: usize, load: usize) {
        let view = &self.expression.loads[load];
        let (kind, pack) = (type_of(view.dtype), self.schedule.pack);
        let target = self.element(number);
        let last = view.axes.last().copied();
        if is_packed(view, pack) {
            let address = address(view, Some(load), "0");
            self.line(&format!(
                "{{ const Pack<{kind}, {pack}> p = \
                 *reinterpret_cast<const Pack<{kind}, {pack}>*>(l{load} + {address});"
            ));
            self.begin_pack();
            let value = widened(view.dtype, "p.values[e]");
            self.line(&format!("{target} = {value}; }} }}"));
            return;
        }
        let is_repeated = last.is_some_and(|axis| axis.stride == 0 && axis.step == 0);
        let address = address(view, Some(load), if is_repeated { "0" } else { "e" });
        self.begin_pack();
        let value = widened(view.dtype, &format!("l{load}[{address}]"));
        self.line(&format!("{target} = {value}; }}"));
    }

    fn position(&mut self, number: usize, axis: usize) {
        let is_last = axis + 1 == self.expression.domain.len();
        let lane = if is_last { " + e" } else { "" };
        let target = self.element(number);
        self.begin_pack();
        self.line(&format!("{target} = (i64)c{axis}{lane}; }}"));
    }

    /// Pairs of neighbours, which lie in one pack.
    fn turn(&mut self, number: usize, x: usize, table: usize) {
        let at = |value: usize, lane: &str| self.element(value).replace("[e]", lane);
        let (target, even, odd) = (number, "[e]", "[e + 1]");
        let lines = [
            format!(
                "const float turned = {} * {} - {} * {};",
                at(x, even),
                at(table, even),
                at(x, odd),
                at(table, odd)
            ),
            format!(
                "{} = {} * {} + {} * {};",
                at(target, odd),
                at(x, odd),
                at(table, even),
                at(x, even),
                at(table, odd)
            ),
            format!("{} = turned; }}", at(target, even)),
        ];
        self.line("#pragma unroll");
        self.line(&format!(
            "for (int e = 0; e < {}; e += 2) {{",
            self.schedule.pack
        ));
        for line in lines {
            self.line(&line);
        }
    }

    fn stores(&mut self, is_wanted: impl Fn(&Store) -> bool) {
        let expression = self.expression;
        for (number, store) in expression.stores.iter().enumerate() {
            if !is_wanted(store) {
                continue;
            }
            let (kind, pack) = (type_of(store.view.dtype), self.schedule.pack);
            let value = self.rounded(number, store);
            if is_packed(&store.view, pack) {
                let address = address(&store.view, None, "0");
                self.line(&format!("{{ Pack<{kind}, {pack}> p;"));
                self.begin_pack();
                self.line(&format!("p.values[e] = {value}; }}"));
                self.line(&format!(
                    "*reinterpret_cast<Pack<{kind}, {pack}>*>(s{number} + {address}) = p; }}"
                ));
            } else {
                let address = address(&store.view, None, "e");
                self.begin_pack();
                self.line(&format!("s{number}[{address}] = {value}; }}"));
            }
        }
    }

    /// Values of whole rows are written by the first thread of each.
    fn row_stores(&mut self) {
        let expression = self.expression;
        let first = expression.domain.len() - expression.row_axes;
        for (number, store) in expression.stores.iter().enumerate() {
            if self.is_of_row[store.value] {
                let mut view = store.view.clone();
                for axis in &mut view.axes[first..] {
                    (axis.stride, axis.step) = (0, 0);
                }
                let address = address(&view, None, "0");
                let value = self.rounded(number, store);
                self.line(&format!("if (lane == 0) s{number}[{address}] = {value};"));
            }
        }
    }

    fn rounded(&self, number: usize, store: &Store) -> String {
        let mut value = self.element(store.value);
        if store.scale.is_some() {
            value = format!("{value} / q{number}");
        }
        let kind = type_of(store.view.dtype);
        match store.view.dtype {
            DType::Bool => format!("(u8)({value} != 0)"),
            dtype if dtype.is_float() => format!("Round<{kind}>::of({value})"),
            _ => format!("({kind}){value}"),
        }
    }

    /// The expression of an instruction's result in the loop over a pack.
    fn element(&self, number: usize) -> String {
        match (self.is_of_row[number], self.schedule.is_kept) {
            (true, _) => format!("v{number}"),
            (false, true) => format!("v{number}[i][e]"),
            (false, false) => format!("v{number}[e]"),
        }
    }

    fn kind(&self, number: usize) -> &'static str {
        if self.is_integer[number] {
            "i64"
        } else {
            "float"
        }
    }
}

/// The offset of an element, from the positions along the axes. The view's own offset is in the
/// pointer.
fn address(view: &View, load: Option<usize>, lane: &str) -> String {
    let sum = |stride_of: &dyn Fn(&crate::Axis) -> usize| {
        let mut terms = String::new();
        for (number, axis) in view.axes.iter().enumerate() {
            let stride = stride_of(axis);
            if axis.size == 1 || stride == 0 {
                continue;
            }
            let is_lane = number + 1 == view.axes.len() && lane != "0";
            let position = if is_lane {
                format!("(c{number} + {lane})")
            } else {
                format!("c{number}")
            };
            _ = match stride {
                1 => write!(terms, " + {position}"),
                stride => write!(terms, " + {position} * {stride}ull"),
            };
        }
        terms
    };
    let mut text = format!("0{}", sum(&|axis| axis.stride));
    if let (Some(index), Some(load)) = (view.index, load) {
        let place = sum(&|axis| axis.step);
        let most = index.size.saturating_sub(1);
        let stride = index.stride;
        _ = write!(
            text,
            " + (u64)between(x{load}[0{place}], 0, {most}) * {stride}ull"
        );
    }
    text
}

/// Whether packs of a view lie at multiples of their size.
fn is_packed(view: &View, pack: usize) -> bool {
    let Some((last, outer)) = view.axes.split_last() else {
        return false;
    };
    let aligned = |axis: &crate::Axis| axis.size == 1 || axis.stride.is_multiple_of(pack);
    pack > 1
        && last.stride == 1
        && last.step == 0
        && view.offset.is_multiple_of(pack)
        && outer.iter().all(aligned)
        && view
            .index
            .is_none_or(|index| index.stride.is_multiple_of(pack))
}

/// The type of an element in CUDA C++.
fn type_of(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "u8",
        dtype => dtype.name(),
    }
}

fn widened(dtype: DType, element: &str) -> String {
    if dtype.is_float() {
        format!("widen({element})")
    } else {
        format!("(i64){element}")
    }
}
