//! `wasi:config`: the values that the configuration gives the agent.
//!
//! Invariant: an attempt sees the values as they were when it began, whatever is configured meanwhile; all drafts show the same.

use crate::domain::receipt::CallKind;
use crate::sandbox::state::Attempt;

mod rc1 {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "src/sandbox/wit/config-rc1", imports: { default: trappable }, require_store_data_send: true });
}

mod draft {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "src/sandbox/wit/config-draft", imports: { default: trappable }, require_store_data_send: true });
}

mod draft_2024_09_27 {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({
        path: "src/sandbox/wit/config-draft-2024-09-27",
        imports: { default: trappable },
        require_store_data_send: true,
    });
}

impl Attempt {
    fn config_value(&self, key: &str) -> wasmtime::Result<Option<String>> {
        self.call(CallKind::Config)?;
        Ok(self.config.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()))
    }

    fn config_values(&self) -> wasmtime::Result<Vec<(String, String)>> {
        self.call(CallKind::Config)?;
        Ok(self.config.to_vec())
    }
}

/// One thin binding for each name of the interface.
macro_rules! binding {
    ($interface:path, $error:ident) => {
        const _: () = {
            use $interface as interface;
            impl interface::Host for Attempt {
                fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, interface::$error>> {
                    Ok(Ok(self.config_value(&key)?))
                }

                fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, interface::$error>> {
                    Ok(Ok(self.config_values()?))
                }
            }
        };
    };
}

binding!(rc1::wasi::config::store, Error);
binding!(draft::wasi::config::store, Error);
binding!(draft::wasi::config::runtime, ConfigError);
binding!(draft_2024_09_27::wasi::config::store, Error);

pub(crate) use draft::Imports as Draft;
pub(crate) use draft_2024_09_27::Imports as Draft20240927;
pub(crate) use rc1::Imports as Rc1;
