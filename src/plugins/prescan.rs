//! A look through a component's sections before anything is spent on compiling it.
//!
//! Invariant: what passes is a component whose functions and instances are bounded in number and size, so that neither the
//! compiler nor the flattening of nested components can be made to run away by a small file.

use wasmparser::{ComponentInstance, Encoding, Instance, Parser, Payload};

/// The bounds of what is compiled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    /// Functions with a body, over all modules.
    pub(super) functions: u64,
    /// Bytes of one function's body: compile time grows faster than its length.
    pub(super) function_bytes: u64,
    /// Instances once nested components are flattened, counted generously.
    pub(super) instances: u64,
}

impl Caps {
    pub(super) const DEFAULT: Caps = Caps { functions: 250_000, function_bytes: 4 << 20, instances: 20_000 };
}

/// What one component costs when it is instantiated: itself and all below it.
#[derive(Default)]
struct Scan {
    /// One for each component that is open, outermost first.
    open: Vec<u64>,
    /// The costliest component that is closed.
    costliest: u64,
    functions: u64,
}

/// Checks that bytes are a component within the caps.
///
/// # Errors
/// The sentence of refusal.
pub(super) fn prescan(name: &str, bytes: &[u8], caps: Caps) -> Result<(), String> {
    if bytes.is_empty() {
        return Err(format!("`{name}` is empty: write the component to it"));
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(format!("`{name}` is not WebAssembly: build a component with --target wasm32-wasip2"));
    }
    let mut scan = Scan::default();
    let cut = |why: &str| format!("`{name}` is not a whole component ({why}): copy it again or rebuild it");
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| cut(&super::loader::one_line(&error.to_string())))?;
        // The parser lets a nested part end early where the file ends between two of its sections.
        if let Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } = &payload
            && unchecked_range.end > length
        {
            return Err(cut("the file ends within a nested part"));
        }
        scan.take(name, &payload, caps)?;
    }
    Ok(())
}

impl Scan {
    fn take(&mut self, name: &str, payload: &Payload<'_>, caps: Caps) -> Result<(), String> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } if self.open.is_empty() => {
                return Err(format!("`{name}` is a core module, not a component: build with --target wasm32-wasip2"));
            }
            Payload::Version { .. } => self.open.push(1),
            Payload::End(_) => self.costliest = self.costliest.max(self.open.pop().unwrap_or(0)),
            Payload::CodeSectionStart { count, .. } => self.functions = self.functions.saturating_add(u64::from(*count)),
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                if range.end.saturating_sub(range.start) > caps.function_bytes {
                    let cap = caps.function_bytes;
                    return Err(format!("`{name}` has a function of more than {cap} bytes: build it with smaller functions"));
                }
            }
            // A component may instantiate any that was closed before it, so each one counts as the costliest of them.
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances.clone() {
                    let whole = matches!(instance, Ok(ComponentInstance::Instantiate { .. }));
                    self.spend(if whole { self.costliest } else { 1 });
                }
            }
            Payload::InstanceSection(instances) => {
                let count = instances.clone().into_iter().filter(|one| matches!(one, Ok(Instance::Instantiate { .. }))).count();
                self.spend(u64::try_from(count).unwrap_or(u64::MAX));
            }
            _ => {}
        }
        self.check(name, caps)
    }

    fn spend(&mut self, cost: u64) {
        if let Some(open) = self.open.last_mut() {
            *open = open.saturating_add(cost);
        }
    }

    fn check(&self, name: &str, caps: Caps) -> Result<(), String> {
        if self.functions > caps.functions {
            let cap = caps.functions;
            return Err(format!("`{name}` has more than {cap} functions: make it smaller"));
        }
        if self.open.last().is_some_and(|cost| *cost > caps.instances) {
            let cap = caps.instances;
            return Err(format!("`{name}` would make more than {cap} instances of its parts: make it smaller"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(wat: &str, caps: Caps) -> Result<(), String> {
        prescan("a.wasm", &wat::parse_str(wat).unwrap(), caps)
    }

    /// Every level instantiates the one below it twice: 2^levels instances from a few hundred bytes.
    fn doubling(levels: usize) -> String {
        let mut text = "(component $c0)".to_owned();
        for level in 1..=levels {
            let below = level - 1;
            text = format!(
                "{text}(component $c{level} (alias outer 1 $c{below} (component $b)) (instance (instantiate $b)) (instance (instantiate $b)))"
            );
        }
        format!("(component {text} (instance (instantiate $c{levels})))")
    }

    #[test]
    fn a_component_passes_and_a_core_module_is_told_apart() {
        assert_eq!(scan("(component (core module (func)))", Caps::DEFAULT), Ok(()));
        let refusal = scan("(module)", Caps::DEFAULT).unwrap_err();
        assert_eq!(refusal, "`a.wasm` is a core module, not a component: build with --target wasm32-wasip2");
    }

    #[test]
    fn what_is_not_a_whole_component_is_refused() {
        let whole = wat::parse_str("(component (core module (func (export \"f\"))))").unwrap();
        for length in 1..whole.len() {
            // The eight bytes of the header alone are an empty component.
            let cut = prescan("a.wasm", &whole[..length], Caps::DEFAULT);
            assert_eq!(cut.is_err(), length != 8, "{length} of {} bytes: {cut:?}", whole.len());
        }
        assert!(prescan("a.wasm", b"", Caps::DEFAULT).unwrap_err().contains("is empty"));
        assert!(prescan("a.wasm", b"\x7fELF\x02\x01", Caps::DEFAULT).unwrap_err().contains("is not WebAssembly"));
        assert!(prescan("a.wasm", b"(component)", Caps::DEFAULT).unwrap_err().contains("is not WebAssembly"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_pass_or_are_refused_in_a_sentence(
            changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..4),
            from in proptest::prelude::any::<proptest::sample::Index>(),
            tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
            is_cut in proptest::prelude::any::<bool>(),
        ) {
            let mut bytes = wat::parse_str(doubling(2)).unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if is_cut {
                bytes.truncate(from.index(bytes.len()));
                bytes.extend(tail);
            }
            if let Err(refusal) = prescan("a.wasm", &bytes, Caps::DEFAULT) {
                proptest::prop_assert!(refusal.starts_with("`a.wasm` ") && !refusal.chars().any(char::is_control), "{}", refusal);
            }
        }
    }

    #[test]
    fn functions_are_capped_in_number_and_size_over_all_modules() {
        let caps = Caps { functions: 3, function_bytes: 64, ..Caps::DEFAULT };
        let three = "(component (core module (func) (func)) (core module (func)))";
        let four = "(component (core module (func) (func)) (core module (func) (func)))";
        assert_eq!(scan(three, caps), Ok(()));
        assert!(scan(four, caps).unwrap_err().contains("more than 3 functions"));
        let long = format!("(component (core module (func {})))", "nop ".repeat(64));
        assert!(scan(&long, caps).unwrap_err().contains("more than 64 bytes"));
    }

    #[test]
    fn nested_instances_are_capped_before_they_multiply() {
        assert_eq!(scan(&doubling(8), Caps::DEFAULT), Ok(()));
        assert!(scan(&doubling(40), Caps::DEFAULT).unwrap_err().contains("instances"));
    }
}
