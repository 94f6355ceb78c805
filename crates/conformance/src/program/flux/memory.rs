//! Memory of the device, looked at all the time: libraries tell nobody what they take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tintype_device::Device;

use super::super::Result;

/// A thread that asks the driver every two milliseconds.
pub(crate) struct Watch {
    device: Device,
    least: Arc<AtomicUsize>,
    is_paused: Arc<AtomicBool>,
    is_done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn new(device: &Device) -> Self {
        let least = Arc::new(AtomicUsize::new(usize::MAX));
        let is_paused = Arc::new(AtomicBool::new(false));
        let is_done = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (device, least) = (device.clone(), least.clone());
            let (is_paused, is_done) = (is_paused.clone(), is_done.clone());
            move || {
                while !is_done.load(Ordering::Relaxed) {
                    if !is_paused.load(Ordering::Relaxed)
                        && let Ok(memory) = device.free_memory()
                    {
                        least.fetch_min(memory.free, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self {
            device: device.clone(),
            least,
            is_paused,
            is_done,
            thread: Some(thread),
        }
    }

    /// Stops asking, or goes on: the driver lets no two threads in at once, which short times show.
    pub(crate) fn pause(&self, on: bool) {
        self.is_paused.store(on, Ordering::Relaxed);
    }

    /// What is in use now, in MiB, of all processes.
    pub(crate) fn used(&self) -> Result<f64> {
        let memory = self.device.free_memory()?;
        Ok(mebibytes(memory.total - memory.free))
    }

    /// The most that was in use since it was last asked, in MiB.
    pub(crate) fn peak(&self) -> Result<f64> {
        let memory = self.device.free_memory()?;
        let least = self.least.swap(usize::MAX, Ordering::Relaxed);
        Ok(mebibytes(memory.total - least.min(memory.free)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and if it did nothing would depend on it.
            let _ = thread.join();
        }
    }
}

pub(crate) fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / 1048576.0
}
