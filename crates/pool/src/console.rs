//! The admin console: commands, and the tables that SHOW prints. Where the rows come from is known elsewhere.
