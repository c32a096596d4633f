def estimate(recipe):
    return {"disk_bytes": {"total": 1}, "memory_bytes": {"always": 1, "peak": 2, "peak_of": "update"}}
