//! Round trips of every conversion.
