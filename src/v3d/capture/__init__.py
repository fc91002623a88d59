"""Photos, videos and posed captures of any format -> `Photo` and `Views`."""
