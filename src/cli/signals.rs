//! SIGINT and SIGTERM, and SIGHUP for what belongs to a terminal: the first asks for an orderly end, the second for a quick one; one more
//! than that ends the process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Fault};

/// The signals that end a command.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    asked: CancellationToken,
    hurry: CancellationToken,
}

impl Signals {
    /// Listens from now on, in a task of the current runtime that lives as long as it. A command that does not take its time
    /// (`is_patient`) ends with the second signal, whatever it is held up by.
    ///
    /// # Errors
    /// The system gives no signals.
    pub fn listen(is_patient: bool) -> Result<Self, Fault> {
        let refused = |error: std::io::Error| Fault::failed(format!("signals cannot be listened for ({error}); start it again"));
        let interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
        let terminate = signal(SignalKind::terminate()).map_err(refused)?;
        let signals = Signals::default();
        tokio::spawn(watch([interrupt, terminate], signals.clone(), is_patient));
        Ok(signals)
    }

    /// Takes SIGHUP for a wish to end, too: the terminal that the command belongs to is gone.
    ///
    /// # Errors
    /// The system gives no signals.
    pub fn end_with_terminal(&self) -> Result<(), Fault> {
        let (mut hangups, asked) = (Self::hangups()?, self.asked());
        tokio::spawn(async move {
            hangups.recv().await;
            asked.cancel();
        });
        Ok(())
    }

    /// SIGHUP, which ends the process no more from now on.
    ///
    /// # Errors
    /// The system gives no signals.
    pub fn hangups() -> Result<Signal, Fault> {
        signal(SignalKind::hangup()).map_err(|error| Fault::failed(format!("signals cannot be listened for ({error}); start it again")))
    }

    /// Is cancelled by the first signal.
    pub fn asked(&self) -> CancellationToken {
        self.asked.clone()
    }

    /// Is cancelled by the second signal.
    pub fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }
}

async fn watch([mut interrupt, mut terminate]: [Signal; 2], signals: Signals, is_patient: bool) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        match (signals.asked.is_cancelled(), signals.hurry.is_cancelled()) {
            (false, _) => signals.asked.cancel(),
            (true, false) if is_patient => signals.hurry.cancel(),
            // The orderly end is what does not come, so nothing is waited for.
            _ => std::process::exit(i32::from(Exit::Interrupted.code())),
        }
    }
}
