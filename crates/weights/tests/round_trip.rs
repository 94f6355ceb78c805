//! What the safetensors crate writes, this crate reads.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Plain, counting, f32s, folder, write};
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use tintype_tensor::{DType, Shape, Tensor};
use tintype_weights::{Checkpoint, Parameters, SafetensorsFile, StorageDType};

const DTYPES: [(Dtype, DType); 8] = [
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::F8_E4M3, DType::F8E4M3),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::U8, DType::U8),
    (Dtype::BOOL, DType::Bool),
];

fn tensor() -> impl Strategy<Value = (usize, Vec<usize>, Vec<u8>)> {
    let shape = prop::collection::vec(0usize..4, 0..4);
    (0..DTYPES.len(), shape).prop_flat_map(|(dtype, shape)| {
        let len = shape.iter().product::<usize>() * DTYPES[dtype].1.bits() / 8;
        (
            Just(dtype),
            Just(shape),
            prop::collection::vec(any::<u8>(), len),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn written_files_read_back(tensors in prop::collection::btree_map("[a-z.\"\\\\é]{1,9}", tensor(), 0..8)) {
        let plain: Vec<Plain> = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| (name.clone(), DTYPES[*dtype].0, shape.clone(), bytes.clone()))
            .collect();
        let folder = folder();
        let parameters = Parameters::open(write(folder.path(), "a.safetensors", &plain)).unwrap();
        prop_assert_eq!(parameters.len(), tensors.len());
        for (name, (dtype, shape, bytes)) in &tensors {
            let tensor = parameters.get(name).unwrap();
            prop_assert_eq!(tensor.dtype(), DTYPES[*dtype].1);
            prop_assert_eq!(&tensor.shape()[..], &shape[..]);
            prop_assert_eq!(tensor.bytes(), &bytes[..]);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(header in ".{0,80}", data in 0usize..16) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        let _ = SafetensorsFile::from_bytes("a.safetensors", bytes);
    }
}

#[test]
fn wide_floats_are_read_as_f32() {
    let folder = folder();
    let bytes = [1.5f64, -0.1]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let path = write(
        folder.path(),
        "a.safetensors",
        &[("a".into(), Dtype::F64, vec![2], bytes)],
    );
    let parameters = Parameters::open(&path).unwrap();
    assert_eq!(parameters.info("a").unwrap().dtype, DType::F32);
    assert_eq!(
        parameters.get("a").unwrap().to_f32_vec().unwrap(),
        [1.5, -0.1]
    );
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.entry("a").unwrap().dtype, StorageDType::F64);
}

#[test]
fn reading_shares_the_mapping() {
    let folder = folder();
    let path = write(
        folder.path(),
        "a.safetensors",
        &[counting("a", &[4, 2], 0.0)],
    );
    let parameters = Parameters::open(&path).unwrap();
    let first = parameters.get("a").unwrap();
    let again = parameters.read_as("a", DType::F32).unwrap();
    assert_eq!(first.bytes().as_ptr(), again.bytes().as_ptr());
    assert_eq!(
        parameters.read_as("a", DType::BF16).unwrap().dtype(),
        DType::BF16
    );
    let info = parameters.info("a").unwrap();
    assert_eq!((info.dtype, info.shape), (DType::F32, Shape::from([4, 2])));
    assert_eq!(info.file.as_deref(), Some(path.as_path()));
}

#[test]
fn expectations_name_file_tensor_and_shapes() {
    let folder = folder();
    let path = write(
        folder.path(),
        "a.safetensors",
        &[counting("a", &[4, 2], 0.0)],
    );
    let parameters = Parameters::open(&path).unwrap();
    parameters
        .expect("a", DType::F32, &Shape::from([4, 2]))
        .unwrap();
    let message = parameters
        .expect("a", DType::F32, &Shape::from([2, 4]))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("a.safetensors: tensor `a`: expected shape [2, 4], found [4, 2]"),
        "{message}"
    );
    let message = parameters.get("b").unwrap_err().to_string();
    assert!(
        message.contains("a.safetensors: expected a tensor `b`"),
        "{message}"
    );
}

#[test]
fn folders_of_both_layouts_are_found() {
    let folder = folder();
    let first = |checkpoint: Checkpoint| {
        let parameters = Parameters::from_checkpoint(&checkpoint).unwrap();
        parameters.get("a").unwrap().to_f32_vec().unwrap()[0]
    };
    write(
        folder.path(),
        "model.safetensors",
        &[f32s("a", &[1], &[1.0])],
    );
    assert_eq!(first(Checkpoint::open(folder.path()).unwrap()), 1.0);
    write(
        folder.path(),
        "diffusion_pytorch_model.fp16.safetensors",
        &[f32s("a", &[1], &[2.0])],
    );
    assert_eq!(first(Checkpoint::open(folder.path()).unwrap()), 1.0);
    assert_eq!(
        first(Checkpoint::open_variant(folder.path(), Some("fp16")).unwrap()),
        2.0
    );
    let message = Checkpoint::open_variant(folder.path(), Some("int9"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("int9") && message.contains("`model.safetensors`"),
        "{message}"
    );
}

#[test]
fn scales_beside_fp8_weights_multiply() {
    let folder = folder();
    let ones = |name: &str, shape: Vec<usize>, len| {
        (name.to_owned(), Dtype::F8_E4M3, shape, vec![0x38; len])
    };
    let path = write(
        folder.path(),
        "a.safetensors",
        &[
            ones("x.weight", vec![2, 2], 4),
            f32s("x.scale_weight", &[], &[0.5]),
            ones("y.weight", vec![2, 2], 4),
            f32s("y.weight_scale", &[2, 1], &[2.0, 3.0]),
            ones("z.weight", vec![1], 1),
        ],
    );
    let parameters = Parameters::open(path).unwrap();
    assert_eq!(
        parameters.names().collect::<Vec<_>>(),
        ["x.weight", "y.weight", "z.weight"]
    );
    assert_eq!(
        parameters.get("x.weight").unwrap().to_f32_vec().unwrap(),
        [0.5; 4]
    );
    assert_eq!(
        parameters.get("y.weight").unwrap().to_f32_vec().unwrap(),
        [2.0, 2.0, 3.0, 3.0]
    );
    assert_eq!(parameters.info("y.weight").unwrap().dtype, DType::F32);
    assert_eq!(parameters.get("z.weight").unwrap().dtype(), DType::F8E4M3);
    let rows = Parameters::builder()
        .parameters(&parameters)
        .view(
            "y.second",
            "y.weight",
            tintype_weights::View::Rows { start: 1, end: 2 },
        )
        .build()
        .unwrap();
    assert_eq!(
        rows.get("y.second").unwrap().to_f32_vec().unwrap(),
        [3.0, 3.0]
    );
}

#[test]
fn scales_of_a_wrong_size_are_refused() {
    let folder = folder();
    let weight = (
        "x.weight".to_owned(),
        Dtype::F8_E4M3,
        vec![2, 2],
        vec![0x38; 4],
    );
    let path = write(
        folder.path(),
        "a.safetensors",
        &[weight, f32s("x.scale_weight", &[3], &[1.0; 3])],
    );
    let message = Parameters::open(path).unwrap_err().to_string();
    assert!(
        message.contains("a.safetensors: tensor `x.scale_weight`"),
        "{message}"
    );
}

#[test]
fn later_layers_win_and_prefixes_go() {
    let folder = folder();
    let path = write(
        folder.path(),
        "a.safetensors",
        &[counting("m.a", &[1], 1.0), counting("b", &[1], 2.0)],
    );
    let parameters = Parameters::builder()
        .file(&path)
        .unwrap()
        .prefix_strip("m.")
        .tensor("b", Tensor::from_f32([1], vec![9.0]).unwrap())
        .build()
        .unwrap();
    assert_eq!(parameters.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(parameters.get("b").unwrap().to_f32_vec().unwrap(), [9.0]);
    let path = write(
        folder.path(),
        "b.safetensors",
        &[counting("m.a", &[1], 1.0), counting("a", &[1], 2.0)],
    );
    let message = Parameters::builder()
        .file(&path)
        .unwrap()
        .prefix_strip("m.")
        .build()
        .unwrap_err();
    assert!(
        message
            .to_string()
            .contains("expected one tensor `a`, found two"),
        "{message}"
    );
}

#[test]
fn identities_follow_header_size_and_time() {
    let folder = folder();
    let path = write(folder.path(), "a.safetensors", &[counting("a", &[2], 1.0)]);
    let identity = || Checkpoint::open(&path).unwrap().identity();
    let before = identity();
    assert_eq!(before, identity());
    assert_eq!(before.hash(), identity().hash());
    let moved = folder.path().join("moved.safetensors");
    std::fs::rename(&path, &moved).unwrap();
    assert_eq!(
        Checkpoint::open(&moved).unwrap().identity().hash(),
        before.hash()
    );
    write(folder.path(), "a.safetensors", &[counting("b", &[2], 1.0)]);
    assert_ne!(identity().hash(), before.hash());
}

#[test]
fn files_in_memory_read_like_files_on_disk() {
    let folder = folder();
    let path = write(folder.path(), "a.safetensors", &[counting("a", &[3], 1.0)]);
    let mapped = Parameters::open(&path).unwrap();
    let file = SafetensorsFile::from_bytes("embedded", std::fs::read(&path).unwrap()).unwrap();
    let held = Parameters::from_checkpoint(&Checkpoint::from_file(file)).unwrap();
    assert!(held.content_changes_from(&mapped).unwrap().is_empty());
    held.verify().unwrap();
    assert_eq!(
        held.identity().files[0].header_hash,
        mapped.identity().files[0].header_hash
    );
    assert!(
        held.get("b")
            .unwrap_err()
            .to_string()
            .starts_with("embedded: ")
    );
    assert!(SafetensorsFile::from_bytes("cut", &b"abc"[..]).is_err());
}

#[test]
fn smaller_floats_serve_f32_where_they_lie() {
    let folder = folder();
    let bytes = vec![0x80, 0x3f, 0x20, 0xc0];
    let path = write(
        folder.path(),
        "a.safetensors",
        &[("a".into(), Dtype::BF16, vec![2], bytes)],
    );
    let parameters = Parameters::open(&path).unwrap();
    let shape = Shape::from([2]);
    let in_place = parameters.expect_in_place("a", DType::F32, &shape).unwrap();
    assert_eq!(in_place.dtype(), DType::BF16);
    assert_eq!(
        in_place.bytes().as_ptr(),
        parameters.get("a").unwrap().bytes().as_ptr()
    );
    assert_eq!(in_place.to_f32_vec().unwrap(), [1.0, -2.5]);
    let rounded = parameters.expect_in_place("a", DType::F16, &shape).unwrap();
    assert_eq!(rounded.dtype(), DType::F16);
    assert!(
        parameters
            .expect_in_place("a", DType::F32, &Shape::from([3]))
            .is_err()
    );
}
