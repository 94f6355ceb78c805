//! E4M3 as torch has it: every code's value, and numbers rounded to codes.

use tintype_tensor::{DType, Tensor, f8e4m3_from_f32, f8e4m3_to_f32};

/// Recorded by `tools/fixtures/record_float8.py`.
const TORCH: &str = include_str!("float8/torch.txt");

fn pairs() -> impl Iterator<Item = (u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text, 16).expect("hexadecimal numbers");
    TORCH.lines().map(move |line| {
        let (left, right) = line.split_once(' ').expect("two numbers a line");
        (number(left), number(right))
    })
}

#[test]
fn every_code_has_torchs_value() {
    let codes: Vec<u8> = (0..=u8::MAX).collect();
    let tensor = Tensor::from_bytes(DType::F8E4M3, [256], codes).unwrap();
    let values = tensor.to_f32_vec().unwrap();
    for ((code, bits), value) in pairs().take(256).zip(values) {
        let expected = f32::from_bits(bits);
        assert_eq!(f8e4m3_to_f32(code as u8).to_bits(), value.to_bits());
        let same = value.to_bits() == bits || (value.is_nan() && expected.is_nan());
        assert!(same, "{code:02x}: {expected} {value}");
    }
}

#[test]
fn numbers_are_rounded_as_torch_does() {
    let numbers: Vec<(u32, u32)> = pairs().skip(256).collect();
    assert!(numbers.len() > 1000);
    for (bits, code) in numbers {
        let value = f32::from_bits(bits);
        assert_eq!(u32::from(f8e4m3_from_f32(value)), code, "{value}");
        let tensor = Tensor::from_f32([1], vec![value]).unwrap();
        let rounded = tensor.to_dtype(DType::F8E4M3).unwrap();
        assert_eq!(u32::from(rounded.bytes()[0]), code, "{value}");
    }
}
