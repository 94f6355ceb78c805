//! FLUX pipelines: tokenizers, scheduler, pipeline, images.
#![forbid(unsafe_code)]
