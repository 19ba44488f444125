//! The protocol's rules, each broken on purpose in the model's hooks or engine; never in the tracker itself.

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    None,
    /// P1: the mark is set before the write lands.
    MarkBeforeLanding,
    /// P1: the mark is set after the call has left the gate.
    MarkAfterLeaving,
    /// P2: marks are taken after the source was read.
    ClearAfterReading,
    /// P2: a visit asks for the file's size before it takes the marks.
    SizeBeforeMarks,
    /// P3: a file is registered after its first copy was read.
    RegisterAfterReading,
    /// P4: a visit that does not find its file keeps the marks.
    KeepMarksOfVanished,
    /// P4: a visit that fails half way keeps the marks.
    KeepMarksOfFailed,
    /// P4: an attempt at the gate that is given up keeps the marks.
    KeepMarksOfAttempt,
    /// P6: creation and O_TRUNC mark names only.
    BirthUnmarked,
    /// P8: ftruncate marks nothing.
    TruncationUnmarked,
    /// P8: a visit does not give the image the source's size.
    SizeNotSet,
    /// P9: a rename marks the directory that it leads to only.
    OldDirectoryUnmarked,
    /// P9: a link marks nothing.
    LinkUnmarked,
    /// P11: an asynchronous write is marked when it is submitted and not entered as in flight.
    MarkAtSubmission,
    /// P14: the closer does not wait for what is in flight.
    InFlightIgnored,
    /// P14: the closer collects the queue, then reads the rings.
    ReapAfterCollecting,
    /// P15: the first copy begins while unseen calls are under way.
    NoGrace,
    /// P18: the closer does not look whether it or a waiter ended the closure.
    LostSwapIgnored,
    /// P20: the closer does not wait for those inside.
    NoDrain,
    /// The marks of an outgrown bitmap are moved while somebody may still mark in it.
    SettleWithoutQuiesce,
    /// The marks of an outgrown bitmap are not moved.
    NoSettle,
    /// P18: who waits for the gate is not woken.
    NoWakeUp,
    /// Two visits to one file at once.
    VisitTwice,
}
