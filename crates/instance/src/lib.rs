//! Skeleton.

pub mod fence;
