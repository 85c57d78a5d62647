"""A resumable map over clips: the job, and the ways to run it (in process, in a pool, on Ray Data)."""
