//! The real program under faults: nothing acknowledged is lost, nothing is made up, and it says what is wrong.

mod kills;
