//! Attention and convolutions by cuDNN.
