//! The `wxgate` command: arguments in, exit status out.

/// Small allocations of many lives are what a proxy does; mimalloc was measured to cost the least
/// for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wxgate::cli::run(std::env::args_os())
}
