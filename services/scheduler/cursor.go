package scheduler

// A cursor's kind says which list it belongs to.
const (
	cursorTasks   byte = 't' // the creation revision of the page's last task
	cursorHistory byte = 'h' // the revision of the page's last change
	cursorQueues  byte = 'q' // the creation revision of the page's last queue
	cursorDead    byte = 'd' // the creation revision of the page's last dead letter
)
