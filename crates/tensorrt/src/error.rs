/// What can go wrong with TensorRT.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The library was not found, or cannot be used.
    #[error(transparent)]
    Library(#[from] tintype_tensorrt_sys::Error),
}
