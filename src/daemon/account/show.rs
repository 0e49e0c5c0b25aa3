//! Budgets and sums as the API shows them.

use serde_json::{Map, Value, json};

use crate::domain::budget::{Grant, Standing};
use crate::domain::spend::Meter;

/// A budget: each meter that it limits with its limit, what was granted beyond that, what was spent and what is left; and the latest grants.
pub(in crate::daemon) fn shown(standing: &Standing, grants: &[Grant]) -> Value {
    let mut meters = Map::new();
    for meter in Meter::ALL {
        let (Some(limit), Some(left)) = (standing.allowance.of(meter), standing.left(meter)) else { continue };
        let amount = |amount| number(meter.shown(amount));
        let of = json!({
            "limit": amount(limit),
            "granted": amount(standing.granted.of(meter)),
            "spent": amount(standing.spent.of(meter)),
            "left": amount(left),
        });
        meters.insert(meter.as_str().to_owned(), of);
    }
    json!({"scope": standing.scope, "meters": meters, "grants": grants})
}

/// A whole number where it is one, as records have it.
fn number(shown: f64) -> Value {
    if shown.fract() == 0.0 && shown.abs() < 1e15 { json!(shown as i64) } else { json!(shown) }
}
