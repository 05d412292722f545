//! Memory reservations (`memory.h`). Only what the domain needs for itself; operations on guests are under `guest`.

/// Changes the size of the domain's reservation: gives frames back.
pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
/// Puts frames behind given frame numbers.
pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
/// Asks how many pages a domain has; the argument is a `domid_t`.
pub const XENMEM_CURRENT_RESERVATION: u32 = 3;
/// Asks for the highest frame number in use; the argument is a `domid_t`.
pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
