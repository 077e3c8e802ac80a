/* Function pointers of the optim family. */
#ifndef CK_OPTIM_H
#define CK_OPTIM_H

typedef struct ck_optim_table {
    int unused;
} ck_optim_table;

#endif
