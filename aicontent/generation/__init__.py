"""Generate content: requests, claims, leases, attempts, retries and workers."""
