//! Buffers of floats that go back to a pool when the last value that uses them goes.
//!
//! A step of a transformer makes the same sizes over and over; taking them from
//! the system each time costs a page fault for every 4 KiB.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Free buffers of one session.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Vec<f32>>>,
}

/// `len` floats; what they hold at first is arbitrary.
#[derive(Debug)]
pub(crate) struct Buffer {
    storage: Vec<f32>,
    len: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// A buffer of `len` floats, every one of which the caller writes.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |storage: &Vec<f32>| storage.len() >= len && storage.len() / 2 <= len;
        let best = (0..free.len())
            .filter(|&index| fits(&free[index]))
            .min_by_key(|&index| free[index].len());
        let storage = best.map(|index| free.swap_remove(index));
        drop(free);
        let storage = storage.unwrap_or_else(|| vec![0.0; len]);
        Buffer {
            storage,
            len,
            pool: Arc::clone(self),
        }
    }
}

impl Buffer {
    /// The floats alone, which do not go back to the pool.
    pub(crate) fn into_vec(mut self) -> Vec<f32> {
        let mut storage = std::mem::take(&mut self.storage);
        storage.truncate(self.len);
        storage.shrink_to_fit();
        storage
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.storage[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.storage[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let storage = std::mem::take(&mut self.storage);
        if storage.is_empty() {
            return;
        }
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.push(storage);
        // The oldest go first: they are the sizes of programs that no longer run.
        if free.len() > MAX_FREE {
            free.remove(0);
        }
    }
}

const MAX_FREE: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let pool = Arc::new(Pool::default());
        let first = pool.take(100);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take(60).as_ptr(), address);
        assert_ne!(pool.take(1000).len(), 100);
    }

    #[test]
    fn floats_that_are_taken_out_do_not_go_back() {
        let pool = Arc::new(Pool::default());
        drop(pool.take(100));
        let taken = pool.take(60).into_vec();
        assert_eq!((taken.len(), taken.capacity()), (60, 60));
        assert!(pool.free.lock().unwrap().is_empty());
    }
}
