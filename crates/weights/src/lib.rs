//! Named parameters: memory-mapped safetensors, generations, content hashes, change sets.
