//! What the library is told, by a stand-in for it.

use cudarc::cudnn::sys::cudnnBackendNumericalNote_t as Note;
use tintype_tensor::DType;

use super::attention::{codes, joined, plain};
use super::convolution::convolution;
use crate::libraries::dnn::attention::{Path, graph_of};
use crate::libraries::dnn::build::OperationGraph;
use crate::libraries::dnn::choose::{Exactness, again, plans};
use crate::libraries::dnn::convolution::candidates_of;
use crate::libraries::dnn::descriptor::{Kind, Name};
use crate::libraries::dnn::fake::{self, Engine};
use crate::libraries::dnn::graph::GraphDescription;
use crate::libraries::dnn::library::{Failure, Library};
use crate::{Place, View};

fn of_graph(
    library: &'static Library,
    description: &GraphDescription,
) -> Result<OperationGraph, Failure> {
    OperationGraph::new(library, std::ptr::null_mut(), description)
}

fn engine(number: i64) -> Engine {
    Engine {
        number,
        ..Engine::default()
    }
}

#[test]
fn every_tensor_and_operation_becomes_descriptors_that_are_destroyed() {
    let library = fake::library(Vec::new());
    let bias = View::contiguous(Place::Buffer(2), DType::BF16, &[1, 2, 5, 5]);
    let attention = joined(Some(bias), plain(0.5, true));
    let convolution = candidates_of(&convolution(true, true, 1)).unwrap();
    let mut graphs = vec![graph_of(&attention, Path::Composite)];
    graphs.extend(
        convolution
            .into_iter()
            .flat_map(|candidate| candidate.stages),
    );
    graphs.push(graph_of(&joined(None, plain(0.5, false)), Path::Unified));
    graphs.push(graph_of(&codes(), Path::Narrow));
    for description in graphs {
        let graph = of_graph(library, &description).unwrap();
        let tensor = Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR;
        let dims = fake::integers(tensor, Name::CUDNN_ATTR_TENSOR_DIMENSIONS);
        let strides = fake::integers(tensor, Name::CUDNN_ATTR_TENSOR_STRIDES);
        let ids = fake::integers(tensor, Name::CUDNN_ATTR_TENSOR_UNIQUE_ID);
        assert_eq!(dims.len(), description.tensors.len());
        for (number, tensor) in description.tensors.iter().enumerate() {
            assert_eq!(dims[number], tensor.dims);
            assert_eq!(strides[number], tensor.strides);
            assert_eq!(ids[number], [number as i64 + 1]);
        }
        let of_graph = Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR;
        let operations = fake::integers(of_graph, Name::CUDNN_ATTR_OPERATIONGRAPH_OPS);
        assert_eq!(operations[0].len(), description.operations.len());
        drop(graph);
        assert_eq!(fake::alive(), 0);
    }
}

#[test]
fn the_one_operation_is_given_four_tensors_and_a_scale() {
    let library = fake::library(Vec::new());
    let description = graph_of(&joined(None, plain(0.5, false)), Path::Unified);
    let _graph = of_graph(library, &description).unwrap();
    let kind = Kind::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR as u32;
    let expected = format!("{kind} [2800, 2801, 2802, 2803, 2805]");
    assert!(fake::log().contains(&expected), "{:?}", fake::log());
}

#[test]
fn an_attribute_that_is_refused_is_named_and_nothing_is_left() {
    let library = fake::library(Vec::new());
    fake::refuse(Name::CUDNN_ATTR_TENSOR_STRIDES);
    let description = graph_of(&joined(None, plain(0.5, false)), Path::Unified);
    let failure = of_graph(library, &description).unwrap_err();
    assert!(failure.is_refusal());
    let text = failure.to_string();
    let expected =
        "setting CUDNN_ATTR_TENSOR_STRIDES failed: FAKE_REFUSAL (2000): the fake says no";
    assert_eq!(text, expected);
    assert_eq!(fake::alive(), 0);
}

#[test]
fn engines_come_in_the_order_of_the_advice_without_the_inexact_and_the_broken() {
    let tensor_core = Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE as u32;
    let shortened = Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS as u32;
    let library = fake::library(vec![
        Engine {
            numerical: vec![tensor_core, shortened],
            ..engine(7)
        },
        Engine {
            status: 3002,
            ..engine(8)
        },
        Engine {
            workspace: 4 << 30,
            ..engine(9)
        },
        Engine {
            numerical: vec![tensor_core],
            workspace: 64,
            ..engine(10)
        },
        engine(11),
    ]);
    let description = &candidates_of(&convolution(true, false, 1)).unwrap()[0].stages[0];
    let graph = of_graph(library, description).unwrap();
    let handle = std::ptr::null_mut();
    let numbers = |exactness, attempts| -> Vec<i64> {
        let found = plans(library, handle, &graph, exactness, attempts).unwrap();
        found.iter().map(|plan| plan.origin.engine).collect()
    };
    assert_eq!(numbers(Exactness::Half, 4), [10, 11]);
    assert_eq!(numbers(Exactness::Half, 0), [10]);
    assert_eq!(numbers(Exactness::F32, 4), [11]);
    let first = plans(library, handle, &graph, Exactness::Half, 1)
        .unwrap()
        .remove(0);
    assert_eq!((first.workspace, first.origin.position), (64, 3));
    let origin = first.origin;
    let same = again(library, handle, &graph, Exactness::Half, origin).unwrap();
    assert_eq!(same.origin, origin);
    assert!(again(library, handle, &graph, Exactness::F32, origin).is_none());
    drop((first, same, graph));
    assert_eq!(fake::alive(), 0);
}

#[test]
fn a_graph_without_engines_is_refused_with_the_librarys_words() {
    let broken = Engine {
        status: 3004,
        ..engine(1)
    };
    let shortened = Engine {
        numerical: vec![Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS as u32],
        ..engine(2)
    };
    let description = &candidates_of(&convolution(true, false, 1)).unwrap()[0].stages[0];
    for (engines, words) in [
        (vec![broken], "the fake says no"),
        (vec![shortened], "as exactly as its dtypes"),
        (vec![], "as exactly as its dtypes"),
    ] {
        let library = fake::library(engines);
        let graph = of_graph(library, description).unwrap();
        let failure = plans(library, std::ptr::null_mut(), &graph, Exactness::Half, 4).unwrap_err();
        assert!(failure.is_refusal());
        assert!(failure.to_string().contains(words), "{failure}");
    }
    // One that needs much memory is better than none.
    let library = fake::library(vec![Engine {
        workspace: 4 << 30,
        ..engine(3)
    }]);
    let graph = of_graph(library, description).unwrap();
    let found = plans(library, std::ptr::null_mut(), &graph, Exactness::Half, 4).unwrap();
    assert_eq!(found[0].workspace, 4 << 30);
}
