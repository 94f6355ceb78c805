//! LoRA files of every common format as overlays on parameters.
#![forbid(unsafe_code)]
