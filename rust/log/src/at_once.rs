//! Work that waits for answers of a store, done in several threads.

use snapsync_model::{Error, Result, unlocked};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many requests are under way at the same time.
pub(crate) const REQUESTS: usize = 16;

/// What `work` makes of each number below `count`, in at most `most` threads. After a failure the rest may be
/// left out.
pub(crate) fn at_once<T: Send>(
    count: usize,
    most: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<T>>>> = Mutex::new((0..count).map(|_| None).collect());
    let take = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let result = work(number);
            snapsync_model::locked(&results)[number] = Some(result);
        }
    };
    std::thread::scope(|scope| {
        // This thread is one of them.
        (1..most.min(count)).for_each(|_| drop(scope.spawn(take)));
        take();
    });
    let gone = || Err(Error::failed("a thread has ended", "try again"));
    unlocked(results).into_iter().map(|result| result.unwrap_or_else(gone)).collect()
}
