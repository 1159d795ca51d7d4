//! How clients prove who they are, and how the pooler proves it to servers: pure state machines, no I/O.
