//! TLS on both sides, from settings.
