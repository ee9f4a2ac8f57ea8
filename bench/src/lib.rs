//! Holds the benches; see `benches/`.
