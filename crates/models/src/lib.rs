//! CLIP, T5, the FLUX transformer and AutoencoderKL as Tintype graphs.
#![forbid(unsafe_code)]
