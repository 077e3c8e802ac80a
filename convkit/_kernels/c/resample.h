/* Function pointers of the resample family. */
#ifndef CK_RESAMPLE_H
#define CK_RESAMPLE_H

typedef struct ck_resample_table {
    int unused;
} ck_resample_table;

#endif
