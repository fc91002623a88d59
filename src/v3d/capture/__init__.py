"""Any photos, videos and posed captures -> `Photo`, `Views`."""
