//! What a run gives.

use std::ops::Index;

use tintype_device::CudaTensor;

/// Outputs of a run by their names.
#[derive(Clone, Debug)]
pub struct Outputs(Vec<(String, CudaTensor)>);

impl Outputs {
    pub(super) fn new(outputs: Vec<(String, CudaTensor)>) -> Self {
        Self(outputs)
    }

    /// The output of this name.
    pub fn get(&self, name: &str) -> Option<&CudaTensor> {
        self.0
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, tensor)| tensor)
    }

    /// All with their names, in the engine's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &CudaTensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

impl IntoIterator for Outputs {
    type Item = (String, CudaTensor);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Index<&str> for Outputs {
    type Output = CudaTensor;

    /// # Panics
    /// If there is no output of this name.
    fn index(&self, name: &str) -> &CudaTensor {
        self.get(name)
            .expect("the engine has an output of this name")
    }
}
