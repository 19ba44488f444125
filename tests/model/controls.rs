//! Each rule of the protocol broken on purpose: the model must notice. docs/controls.md lists them.

use crate::run::notices;
use crate::sabotage::Sabotage::*;
use crate::scenarios;

macro_rules! controls {
    ($($name:ident: $sabotage:ident in $scenario:ident, $schedules:literal;)*) => {$(
        #[test]
        fn $name() {
            notices($sabotage, scenarios::$scenario, $schedules);
        }
    )*};
}

controls! {
    p1_mark_before_landing: MarkBeforeLanding in blocks, 20000;
    p1_mark_after_leaving: MarkAfterLeaving in blocks, 20000;
    p2_clear_after_reading: ClearAfterReading in blocks, 20000;
    p2_size_before_marks: SizeBeforeMarks in growth, 20000;
    p3_register_after_reading: RegisterAfterReading in blocks, 20000;
    p4_marks_of_a_vanished_file: KeepMarksOfVanished in moves, 20000;
    p4_marks_of_a_failed_visit: KeepMarksOfFailed in failures, 20000;
    p4_marks_of_an_attempt: KeepMarksOfAttempt in deadline, 20000;
    p6_birth_unmarked: BirthUnmarked in names, 20000;
    p8_truncation_unmarked: TruncationUnmarked in sizes, 20000;
    p8_size_not_set: SizeNotSet in sizes, 20000;
    p9_old_directory_unmarked: OldDirectoryUnmarked in moves, 20000;
    p9_link_unmarked: LinkUnmarked in names, 20000;
    p11_mark_at_submission: MarkAtSubmission in asynchronous, 20000;
    p14_in_flight_ignored: InFlightIgnored in asynchronous, 20000;
    p14_reap_after_collecting: ReapAfterCollecting in asynchronous, 20000;
    p15_no_grace: NoGrace in grace, 20000;
    p18_lost_swap_ignored: LostSwapIgnored in deadline, 20000;
    p20_no_drain: NoDrain in blocks, 20000;
    p8_settle_without_quiesce: SettleWithoutQuiesce in growth, 60000;
    p8_no_settle: NoSettle in growth, 20000;
    p2_visit_twice: VisitTwice in busy, 400000;
}
