//! Random graphs of streams that part and meet, for tests of branches.

use proptest::prelude::*;
use tintype_ir::{Graph, parse};

/// Operations by numbers: what is done, and to which of the latest values.
pub(crate) fn choices() -> impl Strategy<Value = Vec<[usize; 3]>> {
    proptest::collection::vec(proptest::array::uniform3(0usize..64), 4..28)
}

/// A graph of two inputs of 8 columns, `x` and `y`, and parameters `w0` to `w2`.
pub(crate) fn graph(choices: &[[usize; 3]]) -> Graph {
    let mut text = String::from(
        "graph \"random\" { param @w0: f32[8, 8] param @w1: f32[8, 8] param @w2: f32[8, 8]\n\
         input step %x: f32[4, 8] input step %y: f32[6, 8]\n",
    );
    let mut values = vec![("%x".to_owned(), 4), ("%y".to_owned(), 6)];
    for (number, &[what, a, b]) in choices.iter().enumerate() {
        let latest = |which: usize| &values[values.len() - 1 - which % values.len().min(6)];
        let (one, rows) = latest(a);
        let (other, others) = latest(b);
        let alike: Vec<_> = values.iter().filter(|value| value.1 == *rows).collect();
        let (rows, operation) = match what % 8 {
            0..=3 => (*rows, format!("linear {one}, @w{}", b % 3)),
            4 => (*rows, format!("add {one}, {}", alike[b % alike.len()].0)),
            5 if rows + others <= 32 => {
                (rows + others, format!("concat {one}, {other} {{axis = 0}}"))
            }
            6 if *rows > 1 => {
                let (start, end) = if b % 2 == 0 {
                    (0, rows / 2)
                } else {
                    (rows / 2, *rows)
                };
                let range = format!("{{axis = 0, start = {start}, end = {end}}}");
                (end - start, format!("slice {one} {range}"))
            }
            _ => (*rows, format!("silu {one}")),
        };
        text.push_str(&format!("%{number}: f32[{rows}, 8] = {operation}\n"));
        values.push((format!("%{number}"), rows));
    }
    let (last, middle) = (choices.len() - 1, choices.len() / 2);
    text.push_str(&format!(
        "output last = %{last}\noutput middle = %{middle} }}"
    ));
    parse(&text).unwrap()
}
