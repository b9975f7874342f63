"""The status page: what is counted for it, what it shows, the stream that feeds it, its router."""
