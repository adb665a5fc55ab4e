//! Thread pools.

pub use snapsync_model::{Error, Result};

const MOST_JOBS: usize = 1024;

/// Runs `work` with a pool of `jobs` threads; 0 means one per core.
pub fn with_jobs<T: Send>(jobs: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if jobs > MOST_JOBS {
        let what = format!("{jobs} threads are too many: they would wait for each other");
        return Err(Error::usage(what, format!("use at most {MOST_JOBS} --jobs, or 0 for one a core")));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build();
    let pool = pool.map_err(|e| Error::failed(format!("cannot start threads: {e}"), "use fewer --jobs"))?;
    pool.install(work)
}
