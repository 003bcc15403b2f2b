//! `weaver-gateway`: reads the command line, and leaves the rest to the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weaver_gateway::cli::main()
}
