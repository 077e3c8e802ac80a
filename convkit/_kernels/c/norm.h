/* Function pointers of the norm family. */
#ifndef CK_NORM_H
#define CK_NORM_H

typedef struct ck_norm_table {
    int unused;
} ck_norm_table;

#endif
