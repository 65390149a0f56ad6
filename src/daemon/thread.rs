//! A thread with a runtime of its own, as every plane has.

use std::future::Future;
use std::io;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

use tokio::runtime::{self, LocalOptions, LocalRuntime};

use super::Mourn;

/// Starts a thread that runs `work` to its end. When it returns, the runtime is there: a thread that
/// could not do its work would take clients in and never serve them.
pub(super) fn spawn_with_runtime<F>(
    name: String,
    mourn: Mourn,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<()>>
where
    F: Future<Output = ()> + 'static,
{
    let (made, outcome) = sync_channel(1);
    let thread = Builder::new().name(name.clone()).spawn(move || {
        let _death = mourn.watch(name);
        let runtime = match make_runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _starter_gone = made.send(Err(error));
                return;
            }
        };
        let _starter_gone = made.send(Ok(()));
        runtime.block_on(async { work().await });
        // A name that is being looked up may take half a minute more; nobody waits for it.
        runtime.shutdown_background();
    })?;
    match outcome.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the thread ended before it began")),
    }
}

fn make_runtime() -> io::Result<LocalRuntime> {
    runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thread_that_panics_is_told_of_by_its_name_and_one_that_ends_is_not() {
        let (sender, told) = channel();
        let mourn = Mourn(Some(Arc::new(move |who: &str| sender.send(who.to_owned()).unwrap())));
        let quiet = spawn_with_runtime("control".to_owned(), mourn.clone(), async || ()).unwrap();
        quiet.join().unwrap();
        let loud = spawn_with_runtime("probes".to_owned(), mourn, async || panic!("on purpose")).unwrap();
        assert!(loud.join().is_err());
        assert_eq!(told.recv_timeout(Duration::from_secs(20)).unwrap(), "probes");
        assert!(told.try_recv().is_err());
    }
}
