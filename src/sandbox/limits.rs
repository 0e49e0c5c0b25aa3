//! What a guest may take of memory, tables and instances.
//!
//! Invariant: the sum over all memories of an attempt is at most its limit, whichever instance they belong to; growth that
//! fails after it was allowed is given back. A refusal shows in the guest as `memory.grow` = -1, which it may survive.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use super::meter::{Meter, Trip};
use crate::domain::agent::Limits;

/// Components of the usual toolchains stay below a few dozen instances, memories and tables.
const INSTANCES: usize = 256;

/// Counts what one store holds.
pub(crate) struct Limiter {
    meter: Arc<Meter>,
    memory: Pool,
    tables: Pool,
}

/// One summed quantity.
struct Pool {
    held: u64,
    most: u64,
    /// The growth that was allowed last, in case it fails.
    last: u64,
}

impl Pool {
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = (desired as u64).saturating_sub(current as u64);
        let held = self.held.saturating_add(more);
        let fits = held <= self.most;
        self.last = if fits { more } else { 0 };
        if fits {
            self.held = held;
        }
        fits
    }

    fn give_back(&mut self) {
        self.held = self.held.saturating_sub(self.last);
        self.last = 0;
    }
}

impl Limiter {
    /// Nothing held yet.
    pub(crate) fn new(limits: &Limits, meter: Arc<Meter>) -> Self {
        let pool = |most| Pool { held: 0, most, last: 0 };
        Limiter { meter, memory: pool(limits.memory_bytes), tables: pool(limits.table_elements) }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // What the memory's own type forbids is not for us to count; wasmtime refuses it next.
        if maximum.is_some_and(|most| desired > most) {
            self.memory.last = 0;
            return Ok(true);
        }
        let fits = self.memory.grow(current, desired);
        if fits {
            self.meter.saw_memory(self.memory.held);
        } else {
            self.meter.trip(Trip::Memory);
        }
        Ok(fits)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory.give_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|most| desired > most) {
            self.tables.last = 0;
            return Ok(true);
        }
        let fits = self.tables.grow(current, desired);
        if !fits {
            self.meter.trip(Trip::Tables);
        }
        Ok(fits)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.tables.give_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        INSTANCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65_536;

    fn limiter(pages: usize) -> Limiter {
        let limits = Limits { memory_bytes: (pages * PAGE) as u64, table_elements: 10, ..Limits::default() };
        Limiter::new(&limits, Arc::new(Meter::new(&limits)))
    }

    #[test]
    fn all_memories_share_one_limit() {
        let mut limiter = limiter(4);
        assert!(limiter.memory_growing(0, 2 * PAGE, None).unwrap());
        assert!(limiter.memory_growing(0, 2 * PAGE, None).unwrap());
        assert!(!limiter.memory_growing(2 * PAGE, 3 * PAGE, None).unwrap());
        assert_eq!(limiter.meter.tripped(), Some(Trip::Memory));
    }

    #[test]
    fn growth_that_fails_is_given_back_once() {
        let mut limiter = limiter(4);
        assert!(limiter.memory_growing(0, 3 * PAGE, None).unwrap());
        limiter.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        limiter.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        assert!(limiter.memory_growing(0, 4 * PAGE, None).unwrap());
    }

    #[test]
    fn growth_past_a_memory_s_own_maximum_is_not_counted() {
        let mut limiter = limiter(4);
        assert!(limiter.memory_growing(0, 9 * PAGE, Some(PAGE)).unwrap());
        limiter.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        assert!(limiter.memory_growing(0, 4 * PAGE, None).unwrap());
    }

    #[test]
    fn all_tables_share_one_limit() {
        let mut limiter = limiter(4);
        assert!(limiter.table_growing(0, 6, None).unwrap());
        assert!(!limiter.table_growing(0, 6, None).unwrap());
        assert_eq!(limiter.meter.tripped(), Some(Trip::Tables));
    }
}
