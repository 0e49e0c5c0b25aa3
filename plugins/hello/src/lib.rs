use sandclock_agent::{Agent, Failure, progress};

struct Hello;

impl Agent for Hello {
    fn run(query: String) -> Result<String, Failure> {
        progress::report("greeting", Some(0.5));
        Ok(format!("Hello, {query}!"))
    }
}

sandclock_agent::export!(Hello);
