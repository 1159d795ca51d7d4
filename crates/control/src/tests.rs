//! The service and the client against each other over real sockets.
