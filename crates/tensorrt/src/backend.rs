//! The traits of `tintype-backend`, by TensorRT.
