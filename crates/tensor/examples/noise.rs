//! Draws the noise of a seed as PyTorch would and rounds it to bf16.

use tintype_tensor::{DType, TorchGenerator};

fn main() -> Result<(), tintype_tensor::Error> {
    let noise = TorchGenerator::new(42).randn([1, 16, 8, 8])?;
    let rounded = noise.to_dtype(DType::BF16)?;
    let exact = noise.to_f32_vec()?;
    let error = tintype_tensor::relative_error(&rounded.to_f32_vec()?, &exact);
    println!("first values {:?}", &exact[..4]);
    println!("relative error of bf16 {error:.2e}");
    Ok(())
}
