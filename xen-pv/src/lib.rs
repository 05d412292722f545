//! Xen for a paravirtual guest.
#![no_std]
